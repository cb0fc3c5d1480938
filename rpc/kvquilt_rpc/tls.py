"""TLS of servers and channels from PEM files, checked before gRPC sees them: its own messages say little."""

import ipaddress
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import grpc

from kvquilt_codec.errors import BadRequestError, NotFoundError
from kvquilt_rpc.watched import Watched, read


def server_credentials(cert: Path, key: Path, client_ca: Path | None) -> grpc.ServerCredentials:
    """TLS for a server; the files are looked at before every handshake, so that certificates can be replaced.

    Args:
        cert: certificate chain.
        key: its private key.
        client_ca: if given, every client needs a certificate that one of these signed.

    Raises:
        NotFoundError, BadRequestError: a file is missing or no such thing, or the key is not the certificate's.
    """

    def parsed(contents: Sequence[bytes]) -> grpc.ServerCertificateConfiguration:
        check_pair(cert, key)
        if client_ca is not None:
            check_ca(contents[2], client_ca)
        roots = contents[2] if client_ca is not None else None
        return grpc.ssl_server_certificate_configuration([(contents[1], contents[0])], roots)

    watched = Watched([cert, key, *([] if client_ca is None else [client_ca])], parsed)
    served: list[grpc.ServerCertificateConfiguration] = [watched.get()]

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        current = watched.get()
        if current is served[0]:
            return None
        served[0] = current
        return current

    # The types of gRPC leave out that the fetcher may say "no change" with None.
    again = cast(Callable[[], grpc.ServerCertificateConfiguration], fetch)
    return grpc.dynamic_ssl_server_credentials(served[0], again, require_client_authentication=client_ca is not None)


def server_context(cert: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    """TLS for a server that is not gRPC's; arguments and errors as in `server_credentials`."""
    paths = [cert, key, *([] if client_ca is None else [client_ca])]

    def parsed(contents: Sequence[bytes]) -> ssl.SSLContext:
        check_pair(cert, key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(cert, key)
        if client_ca is not None:
            check_ca(contents[2], client_ca)
            context.load_verify_locations(cadata=contents[2].decode("ascii"))
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    watched = Watched(paths, parsed)

    def chosen(connection: ssl.SSLSocket | ssl.SSLObject, *_: object) -> None:
        connection.context = watched.get()

    first = parsed([read(path) for path in paths])
    first.sni_callback = chosen
    return first


def channel_credentials(ca: Path | None, cert: Path | None, key: Path | None) -> grpc.ChannelCredentials:
    """TLS for a channel. The files are read once: a channel lives with what they held when it was opened.

    Raises:
        NotFoundError, BadRequestError: as in `server_credentials`; a certificate without a key, or a key without one.
    """
    if (cert is None) != (key is None):
        raise BadRequestError("expected tls_cert and tls_key together; got one of them")
    roots = None
    if ca is not None:
        roots = read(ca)
        check_ca(roots, ca)
    if cert is None or key is None:
        return grpc.ssl_channel_credentials(roots)
    check_pair(cert, key)
    return grpc.ssl_channel_credentials(roots, read(key), read(cert))


def check_pair(cert: Path, key: Path) -> None:
    """Refuse a certificate and a key that do not belong together.

    Raises:
        NotFoundError, BadRequestError: see `server_credentials`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        what = "they do not belong together" if error.reason == "KEY_VALUES_MISMATCH" else f"{error.reason or error}"
        raise BadRequestError(f"expected a certificate chain in {cert} and its key in {key} (PEM); {what}") from None
    except OSError as error:
        raise NotFoundError(f"expected to read {cert} and {key}; got {error.strerror}") from None
    except ValueError:
        raise BadRequestError(f"expected a key without a password in {key}") from None


def check_ca(content: bytes, path: Path) -> None:
    """Refuse what holds no certificates.

    Raises:
        BadRequestError: no PEM certificates.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError, ValueError):
        raise BadRequestError(f"expected certificates (PEM) in {path}; it holds none, or damaged ones") from None


def is_unix(host: str) -> bool:
    """Whether an address is that of a Unix socket, as gRPC writes it: `unix:PATH`."""
    return host == "unix" or host.startswith("unix:")


def is_loopback(host: str) -> bool:
    """Whether only processes of this machine reach an address; names other than localhost count as not."""
    if host == "localhost" or is_unix(host):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
