"""How much one request may ask about."""

from collections.abc import Sequence

from kvquilt_codec import catalog
from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.identity import check_digest

MAX_KEYS = 4096


def keys(given: Sequence[bytes], what: str = "object key") -> list[bytes]:
    """Keys of a request.

    Raises:
        BadRequestError: more than `MAX_KEYS`, or something else.
    """
    if len(given) > MAX_KEYS:
        raise BadRequestError(f"expected at most {MAX_KEYS} keys; got {len(given)}")
    return [check_digest(key, what) for key in given]


def limit(given: int, default: int, most: int) -> int:
    """A limit of a request; 0 is the default.

    Raises:
        BadRequestError: more than `most`.
    """
    if given > most:
        raise BadRequestError(f"expected a limit of 1..{most}, or 0 for {default}; got {given}")
    return given or default


def documents(given: Sequence[str]) -> list[str]:
    """Document ids of a request.

    Raises:
        BadRequestError: more than `MAX_KEYS`, or something else.
    """
    if len(given) > MAX_KEYS:
        raise BadRequestError(f"expected at most {MAX_KEYS} document ids; got {len(given)}")
    return [catalog.check_document_id(document) for document in given]
