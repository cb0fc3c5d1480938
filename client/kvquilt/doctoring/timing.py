"""Times that settings give: who waits for whom, and whether the inner one gives up first."""

from collections.abc import Iterator
from dataclasses import dataclass

from kvquilt.checks import Finding, Outcome, promise
from kvquilt.doctoring.types import Part, Patient


@dataclass(frozen=True, slots=True)
class Order:
    """That one time is no longer than another.

    Attributes:
        inner: name and seconds of the time that is to end first.
        outer: of the one that waits for it.
        why: what comes of it otherwise.
        fails: requests suffer; else there is only something to gain.
    """

    inner: tuple[str, float]
    outer: tuple[str, float]
    why: str
    fails: bool = False


def orders(patient: Patient) -> Iterator[Order]:
    """What should hold between times of the parts whose settings are of this machine."""
    node, router = patient.node, patient.router
    fetch = ("router.fetch_deadline", router.fetch_deadline)
    put = ("router.put_deadline", router.put_deadline)
    stat = ("router.stat_deadline", router.stat_deadline)
    if Part.ROUTER in patient.parts:
        yield Order(stat, fetch, "a look-up may take longer than what it is for")
        if Part.CLIENT in patient.parts:
            both = ("router.stat_deadline + router.fetch_deadline", router.stat_deadline + router.fetch_deadline)
            outer = ("client.deadline", patient.deadline)
            yield Order(both, outer, "callers give up on requests that the router would have answered", fails=True)
    if Part.NODE not in patient.parts:
        return
    redis = ("node.redis_timeout", node.redis_timeout)
    if "redis" in (node.store, node.index):
        lease = ("node.lease_seconds", node.lease_seconds)
        yield Order(redis, lease, "another node takes over a put whose node still waits for Redis", fails=True)
    if Part.ROUTER in patient.parts:
        if "redis" in (node.store, node.index):
            yield Order(redis, fetch, "a Redis that hangs is taken for a node that hangs, and the node is left alone")
        if node.store == "object":
            one = ("node.object_timeout", node.object_timeout)
            yield Order(one, put, "routers give up on puts that the node still tries")
        if node.hot_store != "none":
            hot = ("node.hot_timeout", node.hot_timeout)
            yield Order(hot, fetch, "a hot tier that hangs costs the chunk: nothing is left to ask the store")
        if node.read_lease:
            lease = ("node.read_lease", node.read_lease)
            yield Order(fetch, lease, "what is being read may be evicted before it has been sent")
        grace = ("node.drain_seconds", node.drain_seconds)
        yield Order(fetch, grace, "a node that ends cuts off reads that had time left")


async def timeouts(patient: Patient) -> Finding:
    """Who is asked gives up before who asks."""
    wrong = [order for order in orders(patient) if order.inner[1] > order.outer[1]]
    if not wrong:
        return Finding(Outcome.PASSED, promise(timeouts), "the settings of this machine are in order")
    got = "; ".join(f"{o.inner[0]} {o.inner[1]:g} s > {o.outer[0]} {o.outer[1]:g} s: {o.why}" for o in wrong)
    outcome = Outcome.FAILED if any(order.fails for order in wrong) else Outcome.WARNED
    return Finding(outcome, promise(timeouts), got, "lower the former, or raise the latter")
