"""Which short chunks share a forward pass."""

from collections.abc import Sequence

from kvquilt_codec.errors import BadRequestError


def pack(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Indices of chunks by pass, at most `limit` tokens each: first fit decreasing (Prepacking, arXiv 2404.09529).

    A chunk longer than the limit is alone in its pass. First fit decreasing needs at most 11/9 of the fewest passes
    possible, plus 6/9 (Dosa 2007).

    Raises:
        BadRequestError: a limit below 1, or an empty chunk.
    """
    if limit < 1:
        raise BadRequestError(f"expected passes of at least 1 token; got {limit}")
    if min(lengths, default=1) < 1:
        raise BadRequestError(f"expected chunks of at least 1 token; got {min(lengths)}")
    passes: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fits = next((number for number, left in enumerate(room) if lengths[index] <= left), None)
        if fits is None:
            passes.append([index])
            room.append(limit - lengths[index])
        else:
            passes[fits].append(index)
            room[fits] -= lengths[index]
    return passes
