"""Checked byte ranges."""

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
