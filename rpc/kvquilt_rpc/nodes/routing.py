"""Which members a call goes to, the best first."""

import random
from collections.abc import Callable, Sequence

from kvquilt_codec.errors import UnavailableError
from kvquilt_rpc.nodes.hot import HotChunks
from kvquilt_rpc.nodes.member import Member
from kvquilt_rpc.nodes.placement import Site, bounded, ranked
from kvquilt_rpc.nodes.refs import ObjectRef
from kvquilt_rpc.nodes.types import NO_NODES, PoolOptions

Order = Sequence[Member]


class Routing:
    """Orders the members of a pool.

    Where each node has a store of its own, a chunk's node is the first one by its key that can be asked; it is asked
    for all objects of the chunk. Where they share their stores any node has everything: then a chunk's node is asked
    for bytes, so that its memory stays warm, and one that is less busy for everything else.

    Args:
        options: see there.
        clock: seconds that only grow.
        draw: chance.
    """

    def __init__(self, options: PoolOptions, *, clock: Callable[[], float], draw: random.Random) -> None:
        self._options = options
        self._draw = draw
        self._hot = HotChunks(clock, uses=options.hot_uses, window=options.hot_seconds)
        self.members: dict[str, Member] = {}

    def home(self, chunk_key: bytes) -> Member:
        """The node that a chunk belongs to, whether or not it can be asked.

        Raises:
            UnavailableError: there is no node.
        """
        sites = [member.site for member in self._some()]
        return self.members[ranked(sites, chunk_key)[0].name]

    def usable(self) -> list[Member]:
        """Members that requests may go to: those that answer, or if there are none those that it is time to try.

        Raises:
            UnavailableError: there is none.
        """
        members = self._some()
        usable = [member for member in members if member.available]
        usable = usable or [member for member in members if member.serving and member.breaker.ready]
        if not usable:
            raise UnavailableError("expected a cache node that answers; all of them are left alone now, or drain")
        return usable

    def chunk(self, chunk_key: bytes, usable: Sequence[Member]) -> Order:
        """Nodes for a chunk, by its key."""
        return self._named(ranked([member.site for member in usable], chunk_key))

    def anywhere(self, usable: Sequence[Member]) -> Order:
        """Nodes for what any of them can answer: of two drawn the less busy one, then the others."""
        drawn = self._draw.sample(list(usable), len(usable))
        return [*sorted(drawn[:2], key=lambda member: member.outstanding), *drawn[2:]]

    def store(self, chunk_key: bytes) -> Order:
        """Nodes to put an object of a chunk on."""
        usable = self.usable()
        order = self.chunk(chunk_key, usable)
        return self._unloaded(order) if self._options.shared_store else order

    def objects(self, ref: ObjectRef, usable: Sequence[Member]) -> Order:
        """Nodes to ask about an object, but for its bytes."""
        if self._options.shared_store:
            return self.anywhere(usable)
        holder = self.members.get(ref.node)
        return [holder] if holder is not None else self.chunk(ref.chunk_key, usable)

    def read(self, ref: ObjectRef) -> tuple[Order, bool]:
        """Nodes to read an object from, and whether it is read from several because it is hot.

        Of a hot chunk's replicas the less busy of two drawn ones comes first (Mitzenmacher, "The power of two choices
        in randomized load balancing", 2001).
        """
        if not self._options.shared_store:
            return self.objects(ref, () if ref.node in self.members else self.usable()), False
        order = self.chunk(ref.chunk_key, self.usable())
        count = min(self._options.hot_replicas, len(order))
        if self._options.hot_uses and self._hot.used(ref.chunk_key) and count > 1:
            return [*self.anywhere(order[:count]), *order[count:]], True
        return self._unloaded(order), False

    def _unloaded(self, order: Order) -> Order:
        loads = {member.site.name: member.outstanding for member in order}
        return self._named(bounded([member.site for member in order], loads, self._options.load_factor))

    def _named(self, sites: Sequence[Site]) -> Order:
        return [self.members[site.name] for site in sites]

    def _some(self) -> list[Member]:
        if not self.members:
            raise UnavailableError("expected a cache node; router.nodes gives none now", reason=NO_NODES)
        return list(self.members.values())
