"""What the index in Redis remembers of objects that left; the index in SQLite has the same in `departures.py`."""

from collections.abc import Sequence

from kvquilt_cache_node.store.redis_holds import BATCH, batches
from kvquilt_cache_node.store.redis_rows import departed_from, infos_from, models_from, scope_of
from kvquilt_cache_node.store.redis_scripts import Scripts
from kvquilt_cache_node.types import Namespaces
from kvquilt_codec.catalog import ObjectInfo
from kvquilt_codec.traces import ChunkPlace, Departed, Trace


async def trace(scripts: Scripts, places: Sequence[ChunkPlace], limit: int, namespaces: Namespaces) -> Trace:
    """See `Index.trace`. One round trip for each 128 places."""
    objects: dict[bytes, list[ObjectInfo]] = {}
    departed: dict[ChunkPlace, Departed] = {}
    models: frozenset[str] = frozenset()
    for batch in [places[begin : begin + BATCH] for begin in range(0, len(places), BATCH)] or [()]:
        chunks = list(dict.fromkeys(place.chunk_key for place in batch))
        asked = [place.chunk_key + place.prefix_digest for place in batch]
        rows, gone, known = await scripts.run("trace", limit, scope_of(namespaces), len(chunks), *chunks, *asked)
        objects |= {chunk: infos for chunk, own in zip(chunks, rows, strict=True) if (infos := infos_from(own))}
        departed |= departed_from(batch, gone)
        models = models_from(known)
    return Trace(objects, departed, models)


async def forget(scripts: Scripts, namespace: str) -> None:
    """Remember nothing of a namespace any more; of what was forgotten nobody knows whose it was."""
    whose = b":" + namespace.encode()
    async for part in scripts.parts(BATCH, "departures"):
        names = [name for name, noted in part.items() if noted.endswith(whose)]
        for batch in batches(names):
            await scripts.run("forget_departures", *batch)
