"""What several nodes answered, as one answer. Pure computation."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from kvquilt_codec.catalog import ChunkMatch, ObjectInfo, ProfileInfo
from kvquilt_codec.errors import KvquiltError, UnavailableError
from kvquilt_codec.receipts import ForgetReceipt, PinReceipt
from kvquilt_rpc.nodes.attempts import Answer
from kvquilt_rpc.nodes.member import Member
from kvquilt_rpc.nodes.types import VariantsFound


def variants(
    found: Sequence[Answer[dict[bytes, list[ObjectInfo]]]], home: Callable[[bytes], Member], *, shared: bool
) -> VariantsFound:
    """Objects by chunk key; and the keys that are not found while the node that they belong to was not asked.

    Args:
        found: answers about disjoint keys.
        home: the node that a chunk belongs to.
        shared: any node knows of all.
    """
    objects: dict[bytes, list[ObjectInfo]] = {}
    failed: dict[bytes, KvquiltError] = {}
    for answer in found:
        objects |= answer.result or {}
        for key in answer.keys:
            if key in objects or (answer.result is not None and (shared or answer.member is home(key))):
                continue
            left_alone = UnavailableError(f"expected node {home(key).site.name} to be asked; it is left alone now")
            failed[key] = answer.error or left_alone
    return VariantsFound(objects, failed)


def matches(found: Iterable[Sequence[ChunkMatch]], limit: int) -> list[ChunkMatch]:
    """Chunks by fingerprint, each once, at most `limit` of each fingerprint; every node's first ones come first."""
    lists = [list(own) for own in found]
    counts: Counter[int] = Counter()
    merged: dict[ChunkMatch, None] = {}
    for place in range(max(map(len, lists), default=0)):
        for own in lists:
            if place < len(own) and own[place] not in merged and counts[own[place].fingerprint] < limit:
                merged[own[place]] = None
                counts[own[place].fingerprint] += 1
    return list(merged)


def receipts(found: Sequence[ForgetReceipt], *, shared: bool) -> ForgetReceipt:
    """One receipt; of nodes that share their stores each tells of the same objects that stay."""
    deleted = tuple(dict.fromkeys(key for receipt in found for key in receipt.deleted))
    kept = [receipt.kept_shared for receipt in found]
    return ForgetReceipt(
        deleted,
        sum(receipt.deleted_bytes for receipt in found),
        max(kept, default=0) if shared else sum(kept),
        sum(receipt.pending for receipt in found),
    )


def pins(found: Sequence[PinReceipt], *, shared: bool) -> PinReceipt:
    """One receipt; nodes that share their stores have one limit together."""
    keys = tuple(dict.fromkeys(key for receipt in found for key in receipt.keys))
    of_all = max if shared else sum
    return PinReceipt(
        keys, of_all(receipt.pinned_bytes for receipt in found), of_all(receipt.limit_bytes for receipt in found)
    )


def profiles(found: Iterable[Sequence[ProfileInfo]], *, shared: bool) -> list[ProfileInfo]:
    """Each profile once, with what all nodes have of it; of those that share their stores each tells of the same."""
    merged: dict[str, ProfileInfo] = {}
    for info in (info for own in found for info in own):
        known = merged.get(info.digest)
        if known is not None and shared:
            info = max(known, info, key=lambda other: other.objects)
        elif known is not None:
            info = replace(known, objects=known.objects + info.objects, gates=max(known.gates, info.gates))
        merged[info.digest] = info
    return list(merged.values())
