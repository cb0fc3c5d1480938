"""Byte ranges: checked, merged into spans that are worth one request each, and cut out of what was read of those."""

from bisect import bisect_right
from collections.abc import Sequence

from kvquilt_cache_node.types import ByteRange
from kvquilt_codec.errors import IntegrityError


def check_ranges(ranges: Sequence[ByteRange], size: int) -> None:
    """Refuse ranges outside a blob of `size` bytes.

    Raises:
        IntegrityError: names the first such range.
    """
    for begin, end in ranges:
        if not 0 <= begin <= end <= size:
            raise IntegrityError(f"expected ranges within {size} bytes; got {begin}..{end}: truncated")


def merged(ranges: Sequence[ByteRange], gap: int) -> list[ByteRange]:
    """Ascending spans that cover all ranges but empty ones; spans at most `gap` bytes apart become one."""
    spans: list[ByteRange] = []
    for begin, end in sorted(chosen for chosen in ranges if chosen[0] < chosen[1]):
        if spans and begin - spans[-1][1] <= gap:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end))
        else:
            spans.append((begin, end))
    return spans


def cut(ranges: Sequence[ByteRange], spans: Sequence[ByteRange], pieces: Sequence[bytes]) -> list[bytes]:
    """The bytes of each range, given those of the spans that `merged` made of them."""
    starts = [first for first, _ in spans]
    found: list[bytes] = []
    for begin, end in ranges:
        if begin == end:
            found.append(b"")
        else:
            number = bisect_right(starts, begin) - 1
            offset = begin - starts[number]
            found.append(pieces[number][offset : offset + end - begin])
    return found
