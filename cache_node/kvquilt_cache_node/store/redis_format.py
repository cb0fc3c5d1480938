"""Whether an index in Redis is one that this node can work with."""

from kvquilt_cache_node.store.redis_scripts import REPAIR
from kvquilt_codec.errors import BadRequestError, IntegrityError

FORMAT = "6"


def check_opened(prefix: str, policy: str, version: str, found: str, when_full: str) -> None:
    """Refuse what a node cannot work with.

    Args:
        prefix: of the index's keys.
        policy: that the node is set to.
        version: of the index that is there.
        found: its policy.
        when_full: what the server does when its memory is full.

    Raises:
        BadRequestError: the index goes by another policy, or the server would evict parts of the index by itself.
        IntegrityError: the index is of another format, or no index at all.
    """
    if version != FORMAT:
        raise IntegrityError(
            f"expected an index of format {FORMAT} under the keys {prefix}:*; got format "
            f"{version or 'none'}: upgrade this node, or choose another prefix",
            reason="unknown_version",
        )
    if found != policy:
        raise BadRequestError(
            f"expected the policy {found!r} that the index was made with; got {policy!r}: "
            f"set the same on all nodes, or {REPAIR}"
        )
    if when_full.startswith("allkeys"):
        raise BadRequestError(
            "expected a server that keeps the index when its memory is full; got maxmemory-policy "
            f"{when_full}: set noeviction, or one of volatile-*"
        )
