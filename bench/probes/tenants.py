"""Two tenants of nodes and of a router, each with a token of its own: one stores, the other asks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drills.load import Made
from drills.place import Place
from drills.tiny_model import VOCABULARY, saved
from kvquilt import AsyncClient, Document
from kvquilt_codec.types import LayerShape, Level
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.security import Credentials
from tests.codec.samples import make_chunk, make_object
from tests.rpc.certificates import Signer

OWNER, PROBER = "owner", "prober"
DEADLINE = 30.0
MASTER_SECRET = "a master secret of the probes, long enough"  # noqa: S105  of no installation
CHUNK_TOKENS = 16
PREFIX = list(range(11, 27))
QUESTION = [5, 6, 7, 8]
_SHAPES = (LayerShape(1, 8, 8),)


@dataclass(frozen=True)
class Owned:
    """What the owner has stored on nodes."""

    objects: list[Made]

    @property
    def keys(self) -> list[bytes]:
        """Of the objects."""
        return [key for key, _, _ in self.objects]


class Tenants:
    """Nodes that ask for tokens, and both tenants' clients of them.

    Args:
        place: where it takes place.

    Attributes:
        owner: clients of the nodes as the owner, by the index that they have.
        prober: the same as the prober.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._signer = Signer.new(place.folder / "tokens.key")
        self._token_key = f"security.token_key={self._signer.public}"
        server = place.valkey()
        place.node(f"node.{self._token_key}", "node.fsync=false")
        place.node(f"node.{self._token_key}", *place.redis_settings(server.url, shared=True))
        targets = dict(zip(("sqlite", "redis"), place.targets, strict=True))
        self.owner, self.prober = (
            {index: NodeClient(target, self._credentials(tenant)) for index, target in targets.items()}
            for tenant in (OWNER, PROBER)
        )

    def _credentials(self, tenant: str) -> Credentials:
        return Credentials(token=self._signer.token(tenant, tenant))

    async def store(self, index: str, count: int) -> Owned:
        """Have the owner store small objects, each of a text and a document of its own."""
        objects = []
        for number in range(count):
            chunk = make_chunk(24, _SHAPES, seed=number)
            objects.append(make_object(chunk, Level.LOSSLESS, f"document {number}", namespace=OWNER))
        for key, data, meta in objects:
            await self.owner[index].put(key, data, meta, deadline=DEADLINE)
        return Owned(objects)

    def router(self) -> dict[str, AsyncClient]:
        """A router in front of the first node, with a tiny model; clients of it by tenant."""
        folder = self._place.folder / "model"
        saved(folder)
        plain = ("router.ungated=true", "router.warm_up_passages=0", f"router.chunk_tokens={CHUNK_TOKENS}")
        plain += ("router.background=false", "router.threads=1", f"router.master_secret={MASTER_SECRET}")
        token = f"router.node_credentials.token={self._signer.token('router', '*')}"
        _, target = self._place.router(folder, *plain, f"router.{self._token_key}", token)
        return {tenant: AsyncClient(target, self._credentials(tenant)) for tenant in (OWNER, PROBER)}

    async def close(self) -> None:
        """Close the channels to nodes."""
        for client in (*self.owner.values(), *self.prober.values()):
            await client.close()


def texts(count: int) -> list[list[int]]:
    """Documents of a few chunks, as token ids."""
    draw = np.random.default_rng(3)
    return [draw.integers(3, VOCABULARY, int(length)).tolist() for length in draw.integers(60, 100, count)]


def documents(contents: Sequence[list[int]]) -> list[Document]:
    """With ids of their own."""
    return [Document(f"text {number}", content) for number, content in enumerate(contents)]
