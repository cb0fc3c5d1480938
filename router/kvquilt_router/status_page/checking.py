"""Settings that the status page cannot be served with."""

from kvquilt_codec.errors import BadRequestError
from kvquilt_router.settings import RouterSettings
from kvquilt_rpc.authentication import Authenticator
from kvquilt_rpc.tls import is_unix


def check_status_page(settings: RouterSettings) -> None:
    """Refuse settings that the status page cannot be served with.

    Raises:
        BadRequestError: with what to do.
        NotFoundError: a file is missing.
    """
    if settings.status_port is None:
        return
    if is_unix(settings.status_host):
        raise BadRequestError("expected an address in router.status_host; browsers know no Unix sockets")
    if settings.security.identities is not None and settings.security.token_key is None:
        raise BadRequestError(
            "expected router.security.token_key with router.status_port: the page takes tokens, not certificates' names"
        )
    Authenticator(settings.security, settings.status_host)
