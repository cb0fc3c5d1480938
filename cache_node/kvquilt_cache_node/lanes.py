"""How much of what a node does at once."""

from kvquilt_cache_node.service import OPERATORS, SERVICE_NAME
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_rpc.admission import Lanes, Slots
from kvquilt_rpc.counters import Counters

TRANSFERS = ("GetChunk", "GetChunks", "PutChunk")
"""Calls that move objects."""
STATUS_CALLS = 8
"""Of operators' calls, which are answered whatever else there is to do: whoever looks for a fault needs them then."""
_SURELY_TRANSFERS, _SURELY_CALLS = 4, 32


def lanes(settings: NodeSettings, counters: Counters) -> Lanes:
    """Gets and puts apart from look-ups, and the status apart from both."""
    transfers = Slots("transfers", settings.max_transfers, settings.max_waiting, counters, surely=_SURELY_TRANSFERS)
    status = Slots("status", STATUS_CALLS, STATUS_CALLS, counters, surely=2 * STATUS_CALLS)
    own = {f"/{SERVICE_NAME}/{method}": transfers for method in TRANSFERS}
    return Lanes(
        Slots("calls", settings.max_calls, 0, counters, surely=_SURELY_CALLS),
        own | dict.fromkeys(OPERATORS, status),
    )
