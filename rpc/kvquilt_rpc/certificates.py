"""When certificates expire, read from the files themselves; nothing is verified here."""

import calendar
import ssl
import time
from pathlib import Path

from kvquilt_codec.errors import BadRequestError

_END = "-----END CERTIFICATE-----"
_BEGIN = "-----BEGIN CERTIFICATE-----"
_UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x17, 0x18, 0xA0


def first_expiry(content: bytes, path: Path) -> float:
    """When the first of some certificates (PEM) expires, in seconds since the epoch.

    RFC 5280, 4.1: a certificate is SEQUENCE { tbsCertificate SEQUENCE { [0] version, serialNumber, signature, issuer,
    validity SEQUENCE { notBefore, notAfter }, ... }, ... }.

    Raises:
        BadRequestError: there are none, or damaged ones.
    """
    try:
        blocks = content.decode("ascii").split(_BEGIN)[1:]
        return min(_not_after(ssl.PEM_cert_to_DER_cert(f"{_BEGIN}{block.split(_END)[0]}{_END}\n")) for block in blocks)
    except (ValueError, IndexError, KeyError):
        raise BadRequestError(f"expected certificates (PEM) in {path}; it holds none, or damaged ones") from None


def _not_after(der: bytes) -> float:
    _, begin, _ = _element(der, 0)
    _, begin, _ = _element(der, begin)
    tag, _, end = _element(der, begin)
    if tag == _VERSION:
        _, _, end = _element(der, end)
    for _ in range(2):  # signature, issuer
        _, _, end = _element(der, end)
    _, begin, _ = _element(der, end)
    _, _, end = _element(der, begin)
    tag, begin, end = _element(der, end)
    text = der[begin:end].decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no time")
    return float(calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ")))


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Tag of an element in DER, and where its content begins and ends."""
    tag, length, begin = der[at], der[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        length, begin = int.from_bytes(der[begin : begin + count], "big"), begin + count
    if begin + length > len(der):
        raise ValueError("too short")
    return tag, begin, begin + length
