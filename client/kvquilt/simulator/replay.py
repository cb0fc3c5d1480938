"""Runs a trace through a policy, as a store of a given capacity would."""

from collections.abc import Callable

from kvquilt.simulator.types import Outcome, Trace
from kvquilt_cache_node.eviction import Belady, Entry, EvictionPolicy, Key

_STEP = 256


def belady_of(trace: Trace) -> Belady:
    """The policy that knows this trace's future."""
    return Belady([access.key for request in trace.requests for access in request])


def replay(
    trace: Trace,
    policy: EvictionPolicy,
    capacity: int,
    *,
    bypass: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """What a store of `capacity` bytes under a policy would have hit.

    A request first looks up all it needs; then each object, in the order of the prompt, counts a use if it is there,
    else it comes in, and others make room. What is larger than the whole store does not come in.

    Args:
        trace: requests.
        policy: holds nothing yet.
        capacity: bytes.
        bypass: let the newcomer itself go at once, as the bound may.
        progress: told how many requests are done.
    """
    sizes: dict[Key, int] = {}
    used = hits = prefix_hits = evictions = accesses = 0
    saved = total = 0.0
    for done, request in enumerate(trace.requests):
        whole = True
        for access in request:
            total += access.cost
            accesses += 1
            if access.key in policy:
                hits += 1
                prefix_hits += whole
                saved += access.cost
            else:
                whole = False
        for access in request:
            if access.key in policy:
                policy.use(access.key)
                continue
            if access.size > capacity and not bypass:
                continue
            if bypass:
                policy.insert(access.key, Entry(access.size, access.cost))
            used += access.size
            sizes[access.key] = access.size
            while used > capacity:
                used -= sizes.pop(policy.evict())
                evictions += 1
            if not bypass:
                policy.insert(access.key, Entry(access.size, access.cost))
        if done % _STEP == 0:
            progress(done)
    progress(len(trace.requests))
    return Outcome(hits / max(accesses, 1), prefix_hits / max(accesses, 1), saved / total if total else 0.0, evictions)
