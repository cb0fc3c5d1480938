"""What one tenant can find out of another's objects: probes that must not hit, and times that must not differ.

`tenants` are who stores and who asks, `asking` the probes, `timing` how long they take, `run` puts them together
(`make probes`).
"""
