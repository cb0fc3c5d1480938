"""Addresses of servers, as settings and flags give them."""

import re

from kvquilt_codec.errors import BadRequestError

DNS = "dns:///"
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\],=]+):(\d{1,5})")
_ASKED = re.compile(r"^dns://[^\s/,=]*/")  # between the slashes: the name server that is asked
_OTHER = re.compile(r"unix:[^\s,=]+|ipv[46]:[^\s=]+")  # the latter are lists, as gRPC takes them


def check_address(text: str, server: str) -> tuple[str, int]:
    """See that a text is HOST:PORT, dns:///NAME:PORT, dns://NAMESERVER/NAME:PORT or unix:PATH.

    gRPC itself takes almost anything: without a port it calls 443, and of one beyond 65535 the lowest 16 bits.

    Args:
        text: see above.
        server: what it is the address of, for the message.

    Returns:
        Name and port behind `dns:///`; else an empty name and 0.

    Raises:
        BadRequestError: it is something else.
    """
    named = _ADDRESS.fullmatch(_ASKED.sub("", text))
    if named is not None and 1 <= int(named[2]) <= 65535:
        return (named[1].strip("[]"), int(named[2])) if text.startswith(DNS) else ("", 0)
    if _OTHER.fullmatch(text):
        return "", 0
    raise BadRequestError(f"expected {server} as HOST:PORT, dns:///NAME:PORT or unix:PATH; got {text!r}")
