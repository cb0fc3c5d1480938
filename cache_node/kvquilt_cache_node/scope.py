"""Whose objects a call may see and change: from who calls, and the namespace that the call acts in."""

from dataclasses import dataclass

from kvquilt_cache_node.types import Namespaces
from kvquilt_codec.errors import BadRequestError, PermissionDeniedError
from kvquilt_codec.identity import PUBLIC
from kvquilt_rpc.callers import NAMESPACE_KEY, Identity


@dataclass(frozen=True, slots=True)
class Scope:
    """What a call is about. One that acts in no namespace is about everybody's: an operator's, or an open node's."""

    identity: Identity

    @property
    def readable(self) -> Namespaces:
        """Whose objects it sees: those of the namespace that it acts in, and public ones."""
        own = self.identity.namespace
        return (own, PUBLIC) if own else None

    @property
    def writable(self) -> Namespaces:
        """Whose objects it may let documents hold, and forget."""
        own = self.identity.namespace
        if not own:
            return None
        return (own,) if self.identity.may_write(own) else ()

    def check_put(self, namespace: str) -> None:
        """Let it store an object of a namespace.

        Raises:
            PermissionDeniedError: it acts in another namespace, or may only read this one.
        """
        own = self.identity.namespace
        if own and own != namespace:
            raise PermissionDeniedError(
                f"expected an object of namespace {own!r}, which the call acts in; its description says {namespace!r}: "
                f"name that in the metadata {NAMESPACE_KEY}",
                reason="namespace_denied",
            )
        self._check_write(namespace)

    def owner(self, documents: bool) -> str:
        """The namespace whose objects a call forgets, empty for everybody's; documents are always somebody's.

        Raises:
            PermissionDeniedError: it may only read that namespace.
            BadRequestError: documents, and a caller of every namespace that names none.
        """
        own = self.identity.namespace
        if own:
            self._check_write(own)
        elif documents and not self.identity.anonymous:
            raise BadRequestError(
                f"expected a namespace whose documents they are, since {self.identity.name!r} may act in all: name one "
                f"in the metadata {NAMESPACE_KEY}",
                reason="namespace_missing",
            )
        return own

    def check_all(self, namespace: str) -> None:
        """Let it forget everything of a namespace.

        Raises:
            PermissionDeniedError: it acts in another one, or may only read this one.
        """
        if self.identity.namespace not in ("", namespace):
            raise PermissionDeniedError(
                f"expected the namespace that the call acts in, {self.identity.namespace!r}; got {namespace!r}",
                reason="namespace_denied",
            )
        self._check_write(namespace)

    def _check_write(self, namespace: str) -> None:
        if not self.identity.may_write(namespace):
            raise PermissionDeniedError(
                "expected a caller that may write in the namespace public; this one may read: ask for a token with "
                "public_write",
                reason="public_write_denied",
            )
