"""Section codecs: one tensor of one token block to bytes and back. A codec id names a format for ever."""

from kvquilt_codec.errors import IntegrityError
from kvquilt_codec.section.exponents import ExponentsRans
from kvquilt_codec.section.int8 import Int8TokenHead
from kvquilt_codec.types import Level, SectionCodec

__all__ = ["codec_by_id", "codec_for_level"]

_LEVELS: dict[Level, SectionCodec] = {Level.LOSSLESS: ExponentsRans(), Level.HIGH: Int8TokenHead()}
_BY_ID: dict[int, SectionCodec] = {codec.codec_id: codec for codec in _LEVELS.values()}


def codec_for_level(level: Level) -> SectionCodec:
    """The codec that writes a level."""
    return _LEVELS[level]


def codec_by_id(codec_id: int) -> SectionCodec:
    """The codec that reads a section.

    Raises:
        IntegrityError: this version knows no such codec.
    """
    codec = _BY_ID.get(codec_id)
    if codec is None:
        raise IntegrityError(
            f"expected a section codec in {sorted(_BY_ID)}; got {codec_id}: written by a newer kvquilt, or damaged",
            reason="unknown_codec",
        )
    return codec
