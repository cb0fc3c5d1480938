"""Objects to containers and back, with the identities and descriptions that nodes need. No I/O."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from kvquilt.integrations.lmcache.identity import (
    CONTEXT,
    NO_PREFIX,
    Identity,
    Layout,
    LMCacheKey,
    document_id,
    fingerprint,
    identity,
    salt_namespace,
)
from kvquilt.integrations.lmcache.settings import AdapterSettings, namespace_of
from kvquilt.integrations.lmcache.tensors import Buffer, Plan, chunk_of, plan, restore
from kvquilt_codec import catalog, container
from kvquilt_codec.catalog import ObjectMeta
from kvquilt_codec.container import ChunkIdentity
from kvquilt_codec.errors import BadRequestError, IntegrityError
from kvquilt_codec.identity import Namespace
from kvquilt_codec.lifetime import Ttl
from kvquilt_codec.types import VariantKind
from kvquilt_rpc.nodes.refs import ObjectRef

KIND = "lmcache_kind"
"""Attribute of a container: what it holds (`Kind`)."""
UNKNOWN_SALT = "unknown_salt"
"""Reason of errors about a salt without a namespace."""


@dataclass(frozen=True, slots=True)
class Item:
    """An object as it is stored.

    Attributes:
        identity: its keys.
        plan: how its bytes are coded.
        layout: of its bytes.
        model_name: as LMCache has it.
    """

    identity: Identity
    plan: Plan
    layout: Layout
    model_name: str

    @property
    def ref(self) -> ObjectRef:
        """By which nodes are asked for it."""
        return ObjectRef(self.identity.object_key, self.identity.chunk_key)


class Coding:
    """Names, encodes and decodes objects.

    Args:
        settings: of the adapter.
        clock: seconds since the epoch.

    Raises:
        NotFoundError, BadRequestError: see `AdapterSettings.master_secret`.
    """

    def __init__(self, settings: AdapterSettings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._master = settings.master_secret()
        self._clock = clock
        self._namespace = lru_cache(4096)(self._find_namespace)
        self._planned = lru_cache(1024)(self._plan)

    def item(self, key: LMCacheKey, layout: Layout, nbytes: int) -> Item:
        """How an object of LMCache is stored.

        Raises:
            BadRequestError: a salt without a namespace (`unknown_salt`), or something that cannot be stored.
        """
        namespace = self._namespace(key.cache_salt)
        planned, model = self._planned(key.model_name, layout, nbytes)
        return Item(identity(key, namespace, model, planned.form), planned, layout, key.model_name)

    def encode(self, item: Item, buffer: Buffer) -> tuple[bytes, ObjectMeta]:
        """A container, and its description.

        Raises:
            BadRequestError: NaN or Inf in keys or values.
        """
        keys, ttl = item.identity, self._settings.ttl
        seconds = self._settings.model(item.model_name).seconds_per_token
        meta = ObjectMeta(
            model_fingerprint=keys.fingerprint,
            document_ids=(document_id(item.model_name),),
            tokens=item.plan.tokens,
            variant=VariantKind.EXACT,
            form=item.plan.form,
            compute_seconds=seconds * item.plan.tokens,
            chunk_key=keys.chunk_key,
            context_digest=CONTEXT,
            prefix_digest=NO_PREFIX,
            namespace=keys.namespace,
            lifetime=Ttl(ttl).from_now(self._clock()) if ttl else None,
        )
        attributes = {**catalog.to_attributes(meta), KIND: item.plan.kind.value}
        written = ChunkIdentity(keys.fingerprint, keys.chunk_key, meta.variant, CONTEXT, attributes)
        return container.encode(chunk_of(buffer, item.layout, item.plan), item.plan.form.level, written), meta

    def decode(self, item: Item, data: bytes, buffer: Buffer) -> None:
        """Verify a container and write what it holds into an object; a failure leaves the object as it was.

        Raises:
            IntegrityError: damaged, or another object.
            FingerprintMismatchError: of another model or layout.
        """
        chunk = container.decode(data, item.identity.fingerprint)
        header = chunk.head.header
        if catalog.key_of(header) != item.identity.object_key or header.attributes.get(KIND) != item.plan.kind.value:
            raise IntegrityError("expected the object that was asked for; a node sent another one")
        restore(chunk, item.layout, item.plan, buffer)

    def _find_namespace(self, salt: str) -> Namespace:
        settings = self._settings
        name = settings.namespace if not salt else settings.namespaces.get(salt)
        if name is None and settings.unknown_salts == "derive":
            name = salt_namespace(salt, self._master)
        if name is None:
            raise BadRequestError(
                "expected a cache_salt that namespaces names; got another: name it, or set unknown_salts to derive",
                reason=UNKNOWN_SALT,
            )
        return namespace_of(name, self._master)

    def _plan(self, model_name: str, layout: Layout, nbytes: int) -> tuple[Plan, str]:
        model = self._settings.model(model_name)
        return plan(layout, nbytes, model), fingerprint(model_name, model.revision, layout)
