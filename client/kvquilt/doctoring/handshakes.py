"""One TLS handshake as a client sees it: what the server speaks, whom its certificate is for, what it asks for."""

import enum
import socket
import ssl
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kvquilt.doctoring.places import H2, Place

_EXPIRED, _NAME, _IP = 10, 62, 64
"""Of OpenSSL's X509_V_ERR_*: CERT_HAS_EXPIRED, HOSTNAME_MISMATCH, IP_ADDRESS_MISMATCH."""
_NOT_YET = 9
_ALERTS = ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE", "UNKNOWN_CA", "CERTIFICATE_EXPIRED", "BAD_CERTIFICATE")
_PLAIN = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")


class Problem(enum.StrEnum):
    """Why a handshake does not end well."""

    NONE = ""
    PLAIN = "it speaks clear text"
    TLS = "it speaks TLS"
    EXPIRED = "its certificate has expired"
    NOT_YET = "its certificate does not hold yet: look at clocks"
    NAME = "its certificate is for another name"
    AUTHORITY = "its certificate is of an authority that is not trusted"
    ASKS = "it asks for a certificate of the caller, and there is none"
    REFUSES = "it refuses the caller's certificate"
    OTHER = "the handshake fails"


@dataclass(frozen=True, slots=True)
class Handshake:
    """What came of it.

    Attributes:
        problem: why it failed; empty if it did not.
        said: more of that, in the library's words.
        version: of TLS.
        issuer: who signed the server's certificate.
        until: when it expires, in seconds since 1970; 0: not known.
        mutual: the server asked for the caller's certificate, and took it.
    """

    problem: Problem
    said: str = ""
    version: str = ""
    issuer: str = ""
    until: float = 0.0
    mutual: bool = False


def handshake(place: Place, seconds: float) -> Handshake:
    """Connect to a place as its settings say, and look at what it speaks. Blocks; for use in a thread.

    Raises:
        OSError: nobody takes connections there, or nobody answers in time.
    """
    if not place.tls:
        return Handshake(Problem.TLS) if _speaks_tls(place, seconds) else Handshake(Problem.NONE)
    found = _tried(place, seconds, _context(place, place.cert, place.key))
    if found.problem is Problem.NONE and place.cert is not None:
        without = _tried(place, seconds, _context(place, None, None))
        return replace(found, mutual=without.problem is not Problem.NONE)
    if found.problem is Problem.REFUSES and place.cert is None:
        return replace(found, problem=Problem.ASKS)
    return found


def _context(place: Place, cert: Path | None, key: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=None if place.ca is None else str(place.ca))
    if place.hello == H2:
        context.set_alpn_protocols(["h2"])
    if cert is not None and key is not None:
        context.load_cert_chain(cert, key)
    return context


def _tried(place: Place, seconds: float, context: ssl.SSLContext) -> Handshake:
    with socket.create_connection((place.host, place.port), timeout=seconds) as connection:
        try:
            with context.wrap_socket(connection, server_hostname=place.host) as secured:
                certificate = secured.getpeercert() or {}
                # With TLS 1.3 a server refuses the caller's certificate only after the client's side is done.
                secured.sendall(place.hello)
                answered = secured.recv(64)
                version = secured.version() or ""
        except ssl.SSLCertVerificationError as error:
            return Handshake(_of_certificate(error), error.verify_message)
        except (ConnectionError, ssl.SSLEOFError) as error:  # an alert may be lost with the connection
            return Handshake(Problem.REFUSES if _speaks_tls(place, seconds) else Problem.PLAIN, str(error))
        except ssl.SSLError as error:
            return Handshake(_of_alert(error.reason or ""), error.reason or str(error))
    if not answered:
        return Handshake(Problem.REFUSES, "the connection ended")
    return Handshake(Problem.NONE, "", version, _issuer(certificate), _until(certificate))


def _of_certificate(error: ssl.SSLCertVerificationError) -> Problem:
    known = {_EXPIRED: Problem.EXPIRED, _NOT_YET: Problem.NOT_YET, _NAME: Problem.NAME, _IP: Problem.NAME}
    return known.get(error.verify_code, Problem.AUTHORITY)


def _of_alert(reason: str) -> Problem:
    if any(word in reason for word in _PLAIN):
        return Problem.PLAIN
    if "CERTIFICATE_REQUIRED" in reason:
        return Problem.ASKS
    return Problem.REFUSES if any(word in reason for word in _ALERTS) else Problem.OTHER


def _speaks_tls(place: Place, seconds: float) -> bool:
    """Whether a server takes a handshake, whatever its certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if place.hello == H2:
        context.set_alpn_protocols(["h2"])
    with socket.create_connection((place.host, place.port), timeout=seconds) as connection:
        try:
            with context.wrap_socket(connection, server_hostname=place.host):
                return True
        except ssl.SSLError as error:
            return _of_alert(error.reason or "") in (Problem.ASKS, Problem.REFUSES)
        except OSError:
            return False


def _issuer(certificate: dict[str, Any]) -> str:
    parts = dict(pair for group in certificate.get("issuer", ()) for pair in group)
    return str(parts.get("commonName") or parts.get("organizationName") or "an authority without a name")


def _until(certificate: dict[str, Any]) -> float:
    ends = certificate.get("notAfter")
    return float(ssl.cert_time_to_seconds(ends)) if ends else 0.0


def own_certificate(cert: Path, key: Path) -> Handshake:
    """A certificate of this machine, as a client that trusts it finds it: who signed it, and how long it holds.

    Raises:
        OSError, ssl.SSLError: files that are no such pair.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(cafile=str(cert))
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_side=False)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    try:
        for _ in range(4):
            for side in (ours, theirs):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
    except ssl.SSLCertVerificationError as error:
        return Handshake(_of_certificate(error), error.verify_message)
    certificate = ours.getpeercert() or {}
    return Handshake(Problem.NONE, "", "", _issuer(certificate), _until(certificate))
