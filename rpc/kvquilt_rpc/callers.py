"""Who calls: the identity behind a call, as services read it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

from kvquilt_codec.errors import BadRequestError, PermissionDeniedError
from kvquilt_codec.identity import PUBLIC, check_namespace

ANY = "*"
"""Stands for every namespace: what a router needs at its nodes, and an operator's tools."""
NAMESPACE_KEY = "kvquilt-namespace"
"""Metadata key by which a caller chooses among its namespaces."""
MAX_NAMESPACES = 64
_NAME = re.compile(r"[\x21-\x7e]{1,256}")


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller that was authenticated.

    Attributes:
        name: unique; limits and logs go by it.
        namespaces: those that it may read and write, the first by default; `ANY` stands for all. All may read `public`.
        public_write: whether it may store in the namespace `public`, which everybody may read.
        namespace: the one that this call acts in; empty if it named none and there is no default.
        anonymous: nobody was asked who calls.
    """

    name: str
    namespaces: tuple[str, ...]
    public_write: bool = False
    namespace: str = ""
    anonymous: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise BadRequestError(f"expected an identity of 1..256 printable ASCII characters; got {self.name[:40]!r}")
        if not self.anonymous and not 1 <= len(self.namespaces) <= MAX_NAMESPACES:
            raise BadRequestError(
                f"expected an identity with 1..{MAX_NAMESPACES} namespaces; {self.name!r} has {len(self.namespaces)}"
            )
        for namespace in self.namespaces:
            if namespace != ANY:
                check_namespace(namespace)

    @property
    def may_see_all(self) -> bool:
        """Whether it may see figures that are of all namespaces together."""
        return self.anonymous or ANY in self.namespaces

    def check_operator(self) -> None:
        """See that it may do what concerns all namespaces.

        Raises:
            PermissionDeniedError: it has not all of them.
        """
        if not self.may_see_all:
            raise PermissionDeniedError(
                f"expected an operator, whose identity has the namespace {ANY}; {self.name!r} has not",
                reason="operator_only",
            )

    def acting(self, namespace: str) -> "Identity":
        """This identity in a call that names a namespace; empty: none.

        Raises:
            BadRequestError: that is no namespace's name.
            PermissionDeniedError: it is not one of its own.
        """
        if not namespace:
            default = self.namespaces[0] if self.namespaces else ""
            return replace(self, namespace="" if default == ANY else default)
        check_namespace(namespace)
        known = self.anonymous or namespace == PUBLIC or ANY in self.namespaces or namespace in self.namespaces
        if not known:
            raise PermissionDeniedError(
                f"expected one of the namespaces of {self.name!r}; got {namespace!r}: ask for a token that names it",
                reason="namespace_denied",
            )
        return replace(self, namespace=namespace)

    def may_write(self, namespace: str) -> bool:
        """Whether it may store in a namespace that it may act in."""
        return namespace != PUBLIC or self.public_write


ANONYMOUS = Identity("anonymous", (), public_write=True, anonymous=True)
"""Whoever calls a server that asks nobody."""

CALLER: ContextVar[Identity] = ContextVar("kvquilt_caller")


def caller() -> Identity:
    """Who makes the call that is being served.

    Raises:
        LookupError: outside a call of a server whose guard sets it: a mistake in our own code.
    """
    return CALLER.get()


ACTING: ContextVar[str] = ContextVar("kvquilt_acting", default="")
"""The namespace that calls made from here act in, unless the channel's credentials name one; empty: none.

A router serves many namespaces over one channel to a node, so it says with each call whose it is.
"""


@contextmanager
def acting_in(namespace: str) -> Iterator[None]:
    """Calls that are begun inside act in a namespace. Not around a `yield`: what is outside would act in it too."""
    token = ACTING.set(namespace)
    try:
        yield
    finally:
        ACTING.reset(token)
