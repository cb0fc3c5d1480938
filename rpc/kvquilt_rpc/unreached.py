"""What gRPC says of a server that it does not reach, in words that say what to do."""

import re

_NO_CONNECTION = re.compile(
    r"failed to connect to all addresses; last error: [A-Z_]+: (\S+): (?:Failed to connect to remote host: )?(.*)",
    re.DOTALL,
)
_NO_NAME = re.compile(r"errors resolving (\S+): \[.*: ([^:\]]+)\]", re.DOTALL)
_NO_HANDSHAKE = ("Socket closed", "handshake failed", "Hostname Verification Check failed")
"""What gRPC says where TLS does not fit: a server has another name, or it takes a connection and ends it before it says
anything. Of one that ends a connection later ("Stream removed") gRPC says "Socket closed" too."""
_TLS = "the two may not agree on TLS: compare its certificate with tls_ca, and whether it wants TLS or yours"
_NO_HTTP2 = "Failed parsing HTTP/2"
UNKNOWN_CALL = (
    "expected a server that knows the call; this one does not: it is another part of kvquilt (a node where a router is "
    "wanted, or a router where a node is), or of another version. Compare address and port, and `kvquilt --version`"
)


def explained(message: str) -> tuple[str, str | None]:
    """A message of gRPC's, in words; and a reason, where there is one that is not the code's own.

    What is not known comes back as it is.
    """
    connection = _NO_CONNECTION.fullmatch(message)
    if connection is not None:
        where, got = connection[1].removeprefix("ipv4:"), connection[2]
        expected = f"expected a server of kvquilt at {where}; got: {got}"
        if any(sign in got for sign in _NO_HANDSHAKE):
            return f"{expected}; {_TLS}", "tls_handshake"
        if _NO_HTTP2 in got:
            return f"{expected}; something else listens there: mend the address or its port", None
        return f"{expected}; start it, or mend the address or its port", None
    name = _NO_NAME.fullmatch(message)
    if name is not None:
        return f"expected a name with an address; got {name[1]}: {name[2]}; mend the name, or see the name server", None
    return message, None
