"""The gates of a node: kept in its store by digest, found by what they were measured of."""

import asyncio

from kvquilt_cache_node.types import Store
from kvquilt_codec.catalog import GateMeta
from kvquilt_codec.errors import IntegrityError, NotFoundError
from kvquilt_codec.forms import check_hex_digest
from kvquilt_codec.gate import file
from kvquilt_rpc.counters import Counters


class Gates:
    """Checks, stores and serves gates. Nothing is served whose SHA-256 is not its name."""

    def __init__(self, store: Store, counters: Counters) -> None:
        self._store = store
        self._counters = counters

    async def put(self, digest: str, data: bytes) -> bool:
        """Store a gate; `False` if it was there already.

        Raises:
            IntegrityError: other bytes than the digest's, or no gate.
            CapacityError: it does not fit into the store.
        """
        gate = await asyncio.to_thread(file.load, data, digest)
        meta = GateMeta(gate.model_fingerprint, gate.profile_digest)
        stored = await self._store.put_if_absent(bytes.fromhex(digest), data, meta)
        self._counters.add("gates_stored", int(stored))
        return stored

    async def get(self, profile_digest: str, model_fingerprint: str) -> tuple[str, bytes]:
        """Digest and file of the gate of a model and a profile that was stored last.

        A damaged one is deleted, so that it can be stored again, or the one before it be served.

        Raises:
            NotFoundError: the store has none.
            IntegrityError: what the store has is damaged.
            BadRequestError: digests of another shape.
        """
        check_hex_digest(model_fingerprint, "model fingerprint")
        check_hex_digest(profile_digest, "profile digest")
        for info in await self._store.files(GateMeta(model_fingerprint, profile_digest)):
            key = bytes.fromhex(info.digest)
            try:
                (data,) = await self._store.get(key)
                await asyncio.to_thread(file.load, data, info.digest)
            except NotFoundError:
                continue  # its bytes are gone, and now its row too
            except IntegrityError as error:
                self._counters.add("gates_damaged")
                await self._store.forget([key], [])
                raise IntegrityError(f"expected an intact gate; {error}", reason="gate_damaged") from None
            await self._store.touch([key])
            return info.digest, data
        raise NotFoundError(
            f"expected a gate of model {model_fingerprint[:16]}... with profile {profile_digest[:16]}... in the store; "
            "there is none: measure it with `kvquilt calibrate`, and put it there with `kvquilt profile put`",
            reason="gate_missing",
        )
