"""A part of a container that a reader keeps, so that a finer level costs only the missing sections."""

from collections.abc import Mapping
from dataclasses import dataclass

from kvquilt_codec.container.decoder import ContainerDecoder, DecodedChunk, check_section
from kvquilt_codec.container.head import ContainerHead, Section, parse_head
from kvquilt_codec.container.layers import Coders
from kvquilt_codec.errors import IntegrityError

_Place = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class HeldContainer:
    """Head and sections of the coarsest quality layers of a container, every checksum verified.

    Make one with `received`; `extended` gives a finer one.

    Attributes:
        head: what the container says of itself.
        layers: model layers.
        quality_layers: how many of them are held.
    """

    head: ContainerHead
    layers: range
    quality_layers: int
    _head_data: bytes
    _payloads: Mapping[_Place, bytes]

    @classmethod
    def received(
        cls, data: bytes, model_fingerprint: str | None, layers: range | None = None, quality_layers: int | None = None
    ) -> "HeldContainer":
        """What a read of these layers and quality layers gave: the head, then the bytes of `head.byte_ranges`.

        Raises:
            IntegrityError: damaged, or not these sections.
            FingerprintMismatchError: KV of another model.
            BadRequestError: layers or quality layers that the container has not.
        """
        head = parse_head(data)
        if model_fingerprint is not None:
            head.check_fingerprint(model_fingerprint)
        chosen = range(len(head.layout.layers)) if layers is None else layers
        depth = head.quality_layers if quality_layers is None else quality_layers
        payloads = _cut(data, head, head.select(chosen, depth))
        return cls(head, chosen, depth, bytes(data[: head.head_bytes]), payloads)

    def extended(self, data: bytes, quality_layers: int | None = None) -> "HeldContainer":
        """This and the further sections: the head again, then the bytes of `head.byte_ranges(..., held)`.

        Raises:
            IntegrityError: damaged, or of another container: what is held is then of no use with it.
            BadRequestError: no more quality layers than are held, or more than the container has.
        """
        depth = self.head.quality_layers if quality_layers is None else quality_layers
        missing = self.head.select(self.layers, depth, self.quality_layers)
        if bytes(data[: self.head.head_bytes]) != self._head_data:
            raise IntegrityError("expected more of the container that is held; another one came: read it as a whole")
        payloads = {**self._payloads, **_cut(data, self.head, missing)}
        return HeldContainer(self.head, self.layers, depth, self._head_data, payloads)

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        return len(self._head_data) + sum(map(len, self._payloads.values()))

    def decode(self, coders: Coders | None = None, quality_layers: int | None = None) -> DecodedChunk:
        """Decode what is held, or fewer quality layers of it; see `ContainerDecoder` for errors."""
        depth = self.quality_layers if quality_layers is None else quality_layers
        decoder = ContainerDecoder(None, self.layers, depth, coders)
        decoder.feed(self._head_data)
        for section in self.head.select(self.layers, depth):
            decoder.feed(self._payloads[_place(section)])
        return decoder.finish()


def _place(section: Section) -> _Place:
    return section.token_block, section.quality_layer, section.layer, section.part


def _cut(data: bytes, head: ContainerHead, sections: tuple[Section, ...]) -> dict[_Place, bytes]:
    """Sections that follow the head in `data`, one after the other, each verified."""
    expected = head.head_bytes + sum(section.length for section in sections)
    if len(data) != expected:
        raise IntegrityError(f"expected {expected} bytes of head and sections; got {len(data)}")
    payloads: dict[_Place, bytes] = {}
    position = head.head_bytes
    for section in sections:
        payload = bytes(data[position : position + section.length])
        check_section(section, payload)
        payloads[_place(section)] = payload
        position += section.length
    return payloads
