"""Whether a router can run with its settings, as far as they tell. Needs neither a model nor torch."""

from kvquilt_codec.errors import BadRequestError
from kvquilt_router.namespaces import master_secret, namespace_of
from kvquilt_router.policies import policy_by_name
from kvquilt_router.settings import AUTO, RouterSettings
from kvquilt_router.status_page.checking import check_status_page
from kvquilt_rpc.authentication import Authenticator


def check_settings(settings: RouterSettings) -> None:
    """Refuse settings that no router can run with.

    Raises:
        BadRequestError: an unknown policy; a short master secret, or none for a namespace that takes one; one namespace
            for all calls of nodes; see also `Authenticator` and `open_channel`.
        NotFoundError: a file that is named is missing.
    """
    if settings.policy != AUTO:
        policy_by_name(settings.policy)
    namespace_of(settings.namespace, master_secret(settings))
    if settings.master_secret is not None:
        namespace_of("any", master_secret(settings))
    if settings.node_credentials.namespace:
        raise BadRequestError(
            "expected no router.node_credentials.namespace: calls of nodes act in their callers' namespaces; got "
            f"{settings.node_credentials.namespace!r}"
        )
    Authenticator(settings.security, settings.host)
    check_status_page(settings)
