"""Probes: one tenant asks for what another has stored, in every way that there is, and counts what hits.

A probe is one key, fingerprint, document or chunk that is asked for; calls ask for many.
"""

import itertools
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from kvquilt import AsyncClient
from kvquilt_codec.errors import NotFoundError
from kvquilt_codec.fingerprints import unpack
from kvquilt_codec.identity import Namespace, chunk_key
from kvquilt_codec.types import check_token_ids
from kvquilt_rpc.node_client import NodeClient
from probes.tenants import DEADLINE, OWNER, PREFIX, PROBER, QUESTION, Owned
from tests.codec.samples import FINGERPRINT, make_chunk
from tests.codec.samples import PREFIX as PREFIX_DIGEST

BATCH = 500
TEXTS_A_PLAN = 20
CONTROL_PLANS = 5


@dataclass(frozen=True)
class Probed:
    """What came of probes of one kind.

    Attributes:
        kind: what was asked, and where.
        probes: how many.
        calls: in how many calls.
        hits: how many found something.
        control: how many of the same things the owner found in the same way: the power of the probe.
        controls: how many it asked for.
    """

    kind: str
    probes: int
    calls: int
    hits: int
    control: int
    controls: int


Ask = Callable[[NodeClient, Sequence[bytes]], Awaitable[int]]
"""One call for some keys; how many hit."""


async def _stat(node: NodeClient, keys: Sequence[bytes]) -> int:
    return len(await node.stat(keys, deadline=DEADLINE))


async def _get(node: NodeClient, keys: Sequence[bytes]) -> int:
    hits = 0
    for key in keys:
        try:
            pieces = [piece async for piece in node.get(key, FINGERPRINT, deadline=DEADLINE)]
        except NotFoundError:
            continue
        hits += bool(pieces)
    return hits


async def _touch(node: NodeClient, keys: Sequence[bytes]) -> int:
    return len(await node.touch(keys, [], deadline=DEADLINE))


async def _variants(node: NodeClient, keys: Sequence[bytes]) -> int:
    return len(await node.find_variants(keys, FINGERPRINT, PREFIX_DIGEST, deadline=DEADLINE))


async def _chunks(node: NodeClient, prints: Sequence[bytes]) -> int:
    matches = await node.find_chunks(prints, FINGERPRINT, deadline=DEADLINE)
    return len({match.fingerprint for match in matches})


async def _forget(node: NodeClient, keys: Sequence[bytes]) -> int:
    return len((await node.forget(keys=keys, deadline=DEADLINE)).deleted)


async def _forget_documents(node: NodeClient, names: Sequence[bytes]) -> int:
    receipt = await node.forget(documents=[name.decode() for name in names], deadline=DEADLINE)
    return len(receipt.deleted) + receipt.kept_shared


async def _pin(node: NodeClient, keys: Sequence[bytes]) -> int:
    return len((await node.pins.pin(keys=keys, deadline=DEADLINE)).keys)


async def _unpin(node: NodeClient, keys: Sequence[bytes]) -> int:
    return len((await node.pins.unpin(keys=keys, deadline=DEADLINE)).keys)


@dataclass(frozen=True)
class Way:
    """One way to ask a node: the call, what is asked for, the share of all probes, how many a call asks for."""

    name: str
    ask: Ask
    wanted: Callable[[Owned], list[bytes]]
    share: float
    batch: int = BATCH
    controlled: bool = True


def chunk_keys_of(owned: Owned) -> list[bytes]:
    """Of the texts of all objects."""
    return [meta.chunk_key for _, _, meta in owned.objects]


def prints_of(owned: Owned) -> list[bytes]:
    """Of the texts of all objects, each by which it is found inside other texts."""
    return [digest for _, _, meta in owned.objects for _, digest in unpack(meta.fingerprints, meta.tokens)]


def _documents(owned: Owned) -> list[bytes]:
    return [document.encode() for _, _, meta in owned.objects for document in meta.document_ids]


def _own_keys(owned: Owned) -> list[bytes]:
    """Chunk keys of the owner's texts under a secret of the prober's namespace."""
    namespace = Namespace(PROBER, secrets.token_bytes(32))
    return [
        chunk_key(namespace, FINGERPRINT, check_token_ids(make_chunk(24, seed=number).token_ids.tolist()))
        for number in range(len(owned.objects))
    ]


WAYS = (
    Way("stat of its keys", _stat, lambda owned: owned.keys, 0.25),
    Way("read of its keys", _get, lambda owned: owned.keys, 0.05, 50),
    Way("touch of its keys", _touch, lambda owned: owned.keys, 0.15),
    Way("variants of its chunks", _variants, chunk_keys_of, 0.15),
    Way("its fingerprints", _chunks, prints_of, 0.15),
    Way("its texts under an own secret", _variants, _own_keys, 0.05, controlled=False),
    Way("forget of its keys", _forget, lambda owned: owned.keys, 0.05, controlled=False),
    Way("forget of its documents", _forget_documents, _documents, 0.05, 100, controlled=False),
    Way("pins of its keys", _pin, lambda owned: owned.keys, 0.05, controlled=False),
    Way("ends of pins of its keys", _unpin, lambda owned: owned.keys, 0.05, controlled=False),
)
"""Shares add up to 1. What cannot be controlled would change what is stored, or is nobody's."""


async def at_node(index: str, owner: NodeClient, prober: NodeClient, owned: Owned, probes: int) -> list[Probed]:
    """Ask a node in every way as the prober, and once for each thing as the owner.

    Raises:
        RuntimeError: the probes changed what the owner has: a use was counted, or an object is gone.
    """
    done = []
    for way in WAYS:
        wanted, count = way.wanted(owned), round(way.share * probes)
        control = [await way.ask(owner, batch) for batch in _batches(wanted, way.batch) if way.controlled]
        before = await owner.stat(owned.keys, deadline=DEADLINE)
        asked = list(itertools.islice(itertools.cycle(wanted), count))
        hits = [await way.ask(prober, batch) for batch in _batches(asked, way.batch)]
        after = await owner.stat(owned.keys, deadline=DEADLINE)
        if not sum(hits) and before != after:
            raise RuntimeError(f"expected {way.name} by another tenant to change nothing; uses or objects changed")
        controls = len(wanted) if way.controlled else 0
        calls = count if way.ask is _get else len(hits)
        done.append(Probed(f"node, {index}: {way.name}", count, calls, sum(hits), sum(control), controls))
    return done


async def at_router(clients: Mapping[str, AsyncClient], contents: Sequence[list[int]], probes: int) -> Probed:
    """Have prompts of the owner's texts planned by both; `contents` have been stored by the owner."""

    async def planned(tenant: str, chosen: Sequence[list[int]]) -> tuple[int, int]:
        plan = await clients[tenant].plan(
            [*chosen, QUESTION], shared_prefix=PREFIX, policy="none", level="lossless", deadline=DEADLINE
        )
        return len(plan.chunks), sum(not chunk.miss_reason for chunk in plan.chunks)

    hits = done = calls = control = controls = 0
    while done < probes:
        begin = calls * TEXTS_A_PLAN // 2
        chosen = [contents[(begin + offset) % len(contents)] for offset in range(TEXTS_A_PLAN)]
        asked, found = await planned(PROBER, chosen)
        done, hits, calls = done + asked, hits + found, calls + 1
        if calls <= CONTROL_PLANS:
            asked, found = await planned(OWNER, chosen)
            controls, control = controls + asked, control + found
    return Probed("router: plans of its texts", done, calls, hits, control, controls)


def _batches(wanted: Sequence[bytes], size: int) -> list[Sequence[bytes]]:
    return [wanted[begin : begin + size] for begin in range(0, len(wanted), size)]
