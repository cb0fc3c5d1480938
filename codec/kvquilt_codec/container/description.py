"""What a container says of its text: the head and the token ids, without any keys and values."""

from dataclasses import dataclass

from kvquilt_codec.container.decoder import check_section, decode_tokens
from kvquilt_codec.container.head import ContainerHead, parse_head
from kvquilt_codec.errors import IntegrityError
from kvquilt_codec.types import TokenIds


@dataclass(frozen=True, slots=True, eq=False)
class Description:
    """Head and token ids of a container, checksums verified."""

    head: ContainerHead
    token_ids: TokenIds


def description_bytes(head: ContainerHead) -> int:
    """How many of a container's first bytes `describe` takes: the token ids are always the first section."""
    return head.head_bytes + head.sections[0].length


def describe(data: bytes, model_fingerprint: str) -> Description:
    """Read the first `description_bytes` bytes of a container.

    Raises:
        IntegrityError: damaged, or another number of bytes.
        FingerprintMismatchError: of another model than is expected.
    """
    head = parse_head(data)
    head.check_fingerprint(model_fingerprint)
    if len(data) != description_bytes(head):
        raise IntegrityError(f"expected {description_bytes(head)} bytes of head and token ids; got {len(data)}")
    section, payload = head.sections[0], data[head.head_bytes :]
    check_section(section, payload)
    return Description(head, decode_tokens(section, payload, head.header))
