"""The secrets of a router's namespaces."""

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.identity import PUBLIC, Namespace
from kvquilt_router.settings import RouterSettings


def master_secret(settings: RouterSettings) -> bytes:
    """What the secrets of namespaces are derived from; empty if there is nothing."""
    return b"" if settings.master_secret is None else settings.master_secret.get_secret_value().encode()


def namespace_of(name: str, master_secret: bytes) -> Namespace:
    """A namespace with its secret.

    Raises:
        BadRequestError: see `Namespace.derived`; without a master secret only the public one has a secret.
    """
    if name != PUBLIC and not master_secret:
        raise BadRequestError(
            f"expected a master secret for namespace {name!r}; this router has none: set router.master_secret",
            reason="no_master_secret",
        )
    return Namespace.derived(name, master_secret)
