"""How much of what a router does at once."""

from kvquilt_router.service import SERVICE_NAME
from kvquilt_router.settings import RouterSettings
from kvquilt_rpc.admission import Lanes, Slots
from kvquilt_rpc.counters import Counters

STATUS = ("GetStatus", "ListModels")
STATUS_CALLS = 8
"""Of these calls, which answer whatever else there is to do: whoever looks for a fault needs them then."""
_SURELY_LOADS = 4


def lanes(settings: RouterSettings, counters: Counters) -> Lanes:
    """All calls but the status: they last from a millisecond to an hour, so that nothing can be foretold of them."""
    status = Slots("status", STATUS_CALLS, STATUS_CALLS, counters, surely=2 * STATUS_CALLS)
    others = Slots("calls", settings.max_calls, 0, counters, surely=settings.max_calls)
    return Lanes(others, {f"/{SERVICE_NAME}/{method}": status for method in STATUS})


def blend_slots(settings: RouterSettings, counters: Counters) -> Slots:
    """Of one model's blends, which share its engine."""
    return Slots("blends", settings.max_blends, settings.max_waiting, counters)


def load_slots(settings: RouterSettings, counters: Counters) -> Slots:
    """Of one model's loads of exact heads."""
    return Slots("loads", settings.max_loads, settings.max_waiting, counters, surely=_SURELY_LOADS)
