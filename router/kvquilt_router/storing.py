"""Encodes computed variants and puts them to cache nodes."""

import asyncio
import time
from collections.abc import Mapping

from kvquilt_codec import catalog, container, errors, fingerprints
from kvquilt_codec.catalog import ObjectMeta
from kvquilt_codec.container import ChunkIdentity
from kvquilt_codec.identity import canonical_json, context_digest, object_key, variant_key
from kvquilt_codec.joint import JointCoder
from kvquilt_codec.lifetime import Ttl
from kvquilt_router.computing import Computed, VariantJob
from kvquilt_router.forgetting import Forgetting
from kvquilt_router.planning import Planner
from kvquilt_router.profiles import ModelProfile
from kvquilt_router.refusals import QUEUE_FULL, Refusals
from kvquilt_router.usage import Tally
from kvquilt_rpc import spans
from kvquilt_rpc.metrics.codec import Stopwatch
from kvquilt_rpc.nodes import CacheNodes

MODEL_PARTS = "model_parts"
"""Attribute of a container: JSON of the digest of each part of its model's fingerprint."""


class Storer:
    """Stores variants of one model's chunks.

    Args:
        parts: of the model's fingerprint; see `ModelFingerprint.parts`.
        refusals: told of what cannot be stored.
        forgetting: refuses what was begun before its namespace was forgotten.
        tally: counts for the namespace.
        deadline: seconds that one put may take.
        ttl: time to live of what is stored without one of its own; `None`: the node's default.
    """

    def __init__(
        self,
        nodes: CacheNodes,
        planner: Planner,
        profile: ModelProfile,
        parts: Mapping[str, str],
        refusals: Refusals,
        forgetting: Forgetting,
        tally: Tally,
        *,
        deadline: float,
        ttl: Ttl | None = None,
    ) -> None:
        self._ttl = ttl
        self._forgetting = forgetting
        self._nodes = nodes
        self._planner = planner
        self._profile = profile
        self._tally = tally
        self._parts = canonical_json(parts)
        self._refusals = refusals
        self._deadline = deadline

    def key(self, job: VariantJob) -> bytes:
        """Key of the object that a job makes."""
        return object_key(variant_key(job.ref.chunk_key, job.kind, context_digest(job.context)), job.ref.point.form)

    def coder(self, job: VariantJob) -> JointCoder | None:
        """What a job's chunk is encoded with; asked before it is computed.

        Raises:
            UnavailableError: the profile is not at hand.
        """
        digest = job.ref.point.form.profile_digest
        try:
            return self._profile.coder(digest) if digest else None
        except errors.NotFoundError as error:
            raise errors.UnavailableError(str(error), reason=error.reason) from None

    @spans.traced("kvquilt.store_chunk")
    async def store(self, job: VariantJob, computed: Computed, seconds: float) -> tuple[bool, int]:
        """Encode and put; whether it was stored now (`False`: it was there), and its size in bytes.

        Raises:
            UnavailableError: its namespace was forgotten since this began (reason `namespace_forgotten`).
            KvquiltError: it cannot be stored.
        """
        meta = await asyncio.to_thread(self._meta, job, computed, seconds)
        watch = Stopwatch()
        with watch.running():
            data = await asyncio.to_thread(self._encoded, job, computed, meta)
        self._tally.meter.codec.coded("encode", watch.seconds, len(data))
        stored = await self._put(self.key(job), data, meta)
        spans.note(tokens=meta.tokens, bytes=len(data), level=meta.form.level.value, stored=stored)
        self._refusals.stored(meta.chunk_key)
        if stored:
            self._tally.written(meta.tokens, len(data))
        return stored, len(data)

    def dropped(self, job: VariantJob) -> None:
        """A job is not done, because too many wait."""
        self._refusals.refused(job.ref.chunk_key, self._planner.namespace.name, QUEUE_FULL)

    def _meta(self, job: VariantJob, computed: Computed, seconds: float) -> ObjectMeta:
        planner, ref, ttl = self._planner, job.ref, job.ttl or self._ttl
        namespace = planner.namespace_of(ref.public)
        return ObjectMeta(
            planner.fingerprint,
            job.documents,
            len(ref.token_ids),
            job.kind,
            ref.point.form,
            seconds,
            ref.chunk_key,
            context_digest(job.context),
            context_digest(job.prefix),
            computed.sources,
            computed.intra,
            fingerprints.pack(fingerprints.fingerprints(namespace, planner.fingerprint, ref.token_ids)),
            namespace.name,
            None if ttl is None else ttl.from_now(time.time()),
        )

    def _encoded(self, job: VariantJob, computed: Computed, meta: ObjectMeta) -> bytes:
        attributes = {**catalog.to_attributes(meta), MODEL_PARTS: self._parts}
        identity = ChunkIdentity(
            self._planner.fingerprint, job.ref.chunk_key, job.kind, meta.context_digest, attributes
        )
        with spans.span("kvquilt.encode", tokens=meta.tokens):
            return container.encode(
                computed.kv, job.ref.point.form.level, identity, self.coder(job), side=computed.side
            )

    async def _put(self, key: bytes, data: bytes, meta: ObjectMeta) -> bool:
        """Store an object, and before it the profile if a node has lost it, or never got it."""
        with self._forgetting.storing(meta.namespace):
            try:
                return await self._put_now(key, data, meta)
            except errors.KvquiltError as error:
                self._refusals.refused(meta.chunk_key, meta.namespace, error.reason)
                raise

    async def _put_now(self, key: bytes, data: bytes, meta: ObjectMeta) -> bool:
        try:
            return await self._nodes.put(key, data, meta, deadline=self._deadline)
        except errors.NotFoundError as error:
            if error.reason != "profile_missing":
                raise
        await self._profile.publish()
        return await self._nodes.put(key, data, meta, deadline=self._deadline)
