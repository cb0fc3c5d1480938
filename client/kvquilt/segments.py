"""What a prompt is given as, taken apart."""

from collections.abc import Sequence

from kvquilt.types import Segment
from kvquilt_codec.errors import BadRequestError


def split_segments(segments: Sequence[Segment]) -> tuple[list[Segment], Segment]:
    """Documents and question of a prompt given as segments, the question last.

    Raises:
        BadRequestError: no segments, one string where a sequence is meant, or an empty segment.
    """
    if isinstance(segments, str) or not segments:
        raise BadRequestError("expected a sequence of segments, the question last; got none, or a bare string")
    for number, segment in enumerate(segments, start=1):
        if len(segment) == 0:
            raise BadRequestError(f"expected segments of at least one token; segment {number} is empty")
    return list(segments[:-1]), segments[-1]
