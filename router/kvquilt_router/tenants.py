"""What a router keeps of each namespace: nothing that one tenant's requests taught it serves another.

Made at a namespace's first request; those that were used the longest ago are forgotten beyond a limit. What a tenant
stored is not touched by that: a forgotten one begins again with its stored chunks.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from kvquilt_codec.identity import PUBLIC, Namespace
from kvquilt_router.heads import HeadFinder
from kvquilt_router.namespaces import namespace_of
from kvquilt_router.offering import Offers
from kvquilt_router.planning import Planner
from kvquilt_router.precompute import Precomputer
from kvquilt_router.prefixes import KnownPrefixes
from kvquilt_router.storing import Storer
from kvquilt_router.types import ChunkRef, Prompt
from kvquilt_router.warming import WarmUps
from kvquilt_router.why.explaining import Explainer
from kvquilt_router.why.records import RequestLog
from kvquilt_rpc.callers import ANY, Identity


@dataclass(frozen=True, slots=True, eq=False)
class Tenant:
    """One namespace's part of a model: names its chunks, and remembers its corpora, prefixes, anchors and requests."""

    planner: Planner
    offers: Offers
    heads: HeadFinder
    precomputer: Precomputer
    storer: Storer
    warm_ups: WarmUps
    prefixes: KnownPrefixes
    explainer: Explainer
    requests: RequestLog


@dataclass(frozen=True, slots=True, eq=False)
class Acting:
    """A caller at a model.

    Attributes:
        tenant: the namespace that it acts in.
        public: the public one.
        may_write: whether it may store in its own.
        may_write_public: whether it may store in the public one.
        begun: when its request began; see `Forgetting`.
    """

    tenant: Tenant
    public: Tenant
    may_write: bool
    may_write_public: bool
    begun: int = 0

    def of(self, ref: ChunkRef) -> Tenant:
        """Whose a chunk is."""
        return self.public if ref.public else self.tenant

    def may_store(self, ref: ChunkRef, prompt: Prompt, after: int) -> bool:
        """Whether a chunk of a prompt may be stored as it is after the shared prefix and the segments before `after`.

        KV shows what preceded its text when it was computed, so a public chunk may follow public text only.
        """
        if not ref.public:
            return self.may_write
        if ref.segment == 0:
            return self.may_write_public
        return (
            self.may_write_public and prompt.known_prefix and all(i in prompt.public for i in range(1, max(1, after)))
        )


class Tenants:
    """The tenants of one model.

    Args:
        build: makes one.
        master_secret: of which the secrets of namespaces are derived; empty: only the public one is served.
        capacity: how many are remembered, beside the public one.
        forget: told of every namespace that is remembered no more.
    """

    def __init__(
        self,
        build: Callable[[Namespace], Tenant],
        master_secret: bytes,
        capacity: int,
        forget: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._build = build
        self._master = master_secret
        self._capacity = capacity
        self._forget = forget
        self._known: OrderedDict[str, Tenant] = OrderedDict()
        self.public = build(Namespace.public())

    def of(self, name: str) -> Tenant:
        """The tenant of a namespace; a use of it.

        Raises:
            BadRequestError: no namespace's name, or one that takes a secret while there is none.
        """
        if name == PUBLIC:
            return self.public
        tenant = self._known.get(name)
        if tenant is None:
            tenant = self._known[name] = self._build(namespace_of(name, self._master))
        self._known.move_to_end(name)
        while len(self._known) > self._capacity:
            self._forget(self._known.popitem(last=False)[0])
        return tenant

    def __len__(self) -> int:
        """How many are remembered, beside the public one."""
        return len(self._known)

    def forget(self, name: str) -> None:
        """Remember nothing of a namespace."""
        self._known.pop(name, None)
        self._forget(name)
        if name == PUBLIC:
            self.public = self._build(Namespace.public())

    def seen_by(self, identity: Identity) -> dict[str, Tenant]:
        """The remembered tenants whose requests somebody may see, by namespace; this is no use of them.

        The public one only for whom it is an own namespace: everybody may read its text, not what others ask.
        """
        known = {PUBLIC: self.public, **self._known}
        return {name: own for name, own in known.items() if identity.may_see_all or name in identity.namespaces}

    def readable(self, identity: Identity) -> list[Namespace]:
        """The namespaces that somebody may read; of those who may read all, the ones that are remembered."""
        names = [*identity.namespaces, *(self._known if ANY in identity.namespaces else ()), PUBLIC]
        own = [name for name in dict.fromkeys(names) if name != ANY]
        return [namespace_of(name, self._master) for name in own if name == PUBLIC or self._master]
