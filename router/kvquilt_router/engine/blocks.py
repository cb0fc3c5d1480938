"""Prompts whose segments see chosen segments only, such as passages of a graph (Graph-KV, arXiv 2506.07334)."""

from dataclasses import dataclass

import torch

from kvquilt_codec.errors import BadRequestError


@dataclass(frozen=True, slots=True)
class BlockStructure:
    """Which segments of a prompt each segment attends to.

    Tokens outside of all segments (a shared prefix, a question) see everything before them and are seen by everything
    after them; inside of a segment attention is causal. Positions stay those of the prompt.

    Attributes:
        segments: begin and end of each, ascending, not overlapping.
        sources: for each segment the numbers of the segments that it sees beside itself, all of them earlier ones.

    Raises:
        BadRequestError: segments that overlap, are empty or not ascending; sources that are not earlier segments.
    """

    segments: tuple[tuple[int, int], ...]
    sources: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if len(self.sources) != len(self.segments):
            raise BadRequestError(
                f"expected sources for each of {len(self.segments)} segments; got {len(self.sources)}: "
                "a segment that sees no other has ()"
            )
        reached = 0
        for index, (begin, end) in enumerate(self.segments):
            if not reached <= begin < end:
                raise BadRequestError(
                    f"expected segments that ascend and do not overlap; got {begin} to {end} after position {reached}"
                )
            reached = end
            if wrong := [source for source in self.sources[index] if not 0 <= source < index]:
                raise BadRequestError(
                    f"expected sources of segment {index} among the {index} segments before it; got {wrong}: "
                    "place sources before the segments that see them"
                )

    def seen(self, slots: torch.Tensor, tokens: int) -> torch.Tensor:
        """Which of `tokens` keys the queries at `slots` `[n]` see, as far as they are earlier: `[n, tokens]` boolean.

        Raises:
            BadRequestError: a segment ends beyond the tokens.
        """
        count = len(self.segments)
        if self.segments and self.segments[-1][1] > tokens:
            raise BadRequestError(
                f"expected segments within the {tokens} tokens before the last; got an end at {self.segments[-1][1]}"
            )
        device = slots.device
        number = torch.full((tokens,), count, device=device)  # the last row and column: outside of all segments
        sees = torch.eye(count + 1, dtype=torch.bool, device=device)
        sees[count] = True
        sees[:, count] = True
        for index, (begin, end) in enumerate(self.segments):
            number[begin:end] = index
            sees[index, list(self.sources[index])] = True
        return sees[number[slots][:, None], number[None]]
