"""What an eviction policy would have done on a trace of requests: traces, replay, results."""
