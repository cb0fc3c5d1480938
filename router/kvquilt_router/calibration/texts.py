"""Texts that a model is calibrated on: read, cut into pieces, and parted into those to learn from and to measure on."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.types import TokenIds

PIECE_TOKENS = 1024
MIN_PIECE_TOKENS = 64
MIN_TEXTS = 4
HOLD_OUT_EVERY = 5
MIN_HELD_OUT = 2
MIN_TOKENS = 512
ENOUGH_TOKENS = 18_000
"""Below this the prediction across layers suffers (measured: 9,000 tokens of one domain cost it 28 %)."""
MAX_TOKENS = 32_768
MAX_HELD_OUT_PIECES = 8

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Text:
    """A text.

    Attributes:
        name: what it is called, for instance its file's name.
        content: of it.
        kind: of text; a prompt's passages are of one kind.
    """

    name: str
    content: str
    kind: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Consecutive tokens of one text; three quarters are context, and a model's quality is measured on the rest.

    Attributes:
        token_ids: of it.
        kind: of the text.
    """

    token_ids: TokenIds
    kind: str = ""

    @property
    def context(self) -> TokenIds:
        """The first three quarters."""
        return self.token_ids[: len(self.token_ids) * 3 // 4]

    @property
    def continuation(self) -> TokenIds:
        """The last quarter."""
        return self.token_ids[len(self.token_ids) * 3 // 4 :]


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Pieces of texts.

    Attributes:
        training: to learn from.
        held_out: to choose and to measure on; from other texts.
        description: what it is, in words.
    """

    training: tuple[Piece, ...]
    held_out: tuple[Piece, ...]
    description: str

    @property
    def training_tokens(self) -> int:
        """Tokens to learn from."""
        return sum(len(piece.token_ids) for piece in self.training)


def cut(texts: Sequence[Text], tokenise: Callable[[str], TokenIds]) -> Corpus:
    """Cut texts into pieces of up to `PIECE_TOKENS` tokens, and hold out every fifth text, at least two.

    Of many or long texts only so much is used: `MAX_TOKENS` to learn from and `MAX_HELD_OUT_PIECES` to measure on, the
    first pieces of every text before second ones.

    Raises:
        BadRequestError: fewer than `MIN_TEXTS` texts, or fewer than `MIN_TOKENS` tokens to learn from.
    """
    pieces = [(text.name, _pieces(tokenise(text.content), text.kind)) for text in texts]
    usable = [(name, parts) for name, parts in pieces if parts]
    if len(usable) < MIN_TEXTS:
        raise BadRequestError(
            f"expected at least {MIN_TEXTS} texts of {MIN_PIECE_TOKENS} tokens or more; got {len(usable)} "
            f"(and {len(pieces) - len(usable)} shorter): add texts"
        )
    count = max(MIN_HELD_OUT, len(usable) // HOLD_OUT_EVERY)
    held = {(index + 1) * len(usable) // count - 1 for index in range(count)}
    training = _in_turn([parts for index, (_, parts) in enumerate(usable) if index not in held], MAX_TOKENS)
    measured = _in_turn([usable[index][1] for index in sorted(held)], MAX_HELD_OUT_PIECES * PIECE_TOKENS)
    tokens = sum(len(piece.token_ids) for piece in training)
    if tokens < MIN_TOKENS:
        raise BadRequestError(f"expected at least {MIN_TOKENS} tokens to learn from; got {tokens}: add texts")
    if tokens < ENOUGH_TOKENS:
        _log.warning(
            "calibration learns from %d tokens; with %d or more of several domains, levels take fewer bits",
            tokens,
            ENOUGH_TOKENS,
        )
    names = ", ".join(usable[index][0] for index in sorted(held))
    description = f"{tokens} tokens of {len(usable) - count} texts; measured on {count} others: {names}"
    return Corpus(tuple(training), tuple(measured[:MAX_HELD_OUT_PIECES]), description)


def _pieces(token_ids: TokenIds, kind: str) -> list[Piece]:
    cuts = (token_ids[begin : begin + PIECE_TOKENS] for begin in range(0, len(token_ids), PIECE_TOKENS))
    return [Piece(part, kind) for part in cuts if len(part) >= MIN_PIECE_TOKENS]


def _in_turn(texts: Sequence[Sequence[Piece]], tokens: int) -> list[Piece]:
    """Pieces from all texts in turn, while they fit into so many tokens."""
    taken: list[Piece] = []
    for turn in range(max(map(len, texts))):
        for pieces in texts:
            if turn < len(pieces):
                tokens -= len(pieces[turn].token_ids)
                if tokens < 0:
                    return taken
                taken.append(pieces[turn])
    return taken
