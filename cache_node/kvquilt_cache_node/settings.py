"""Settings of a cache node; each is documented here and listed by `kvquilt config show`."""

import json
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, SecretStr, field_validator, model_validator

from kvquilt_cache_node.encryption_settings import EncryptionSettings
from kvquilt_cache_node.eviction import DEFAULT, POLICIES
from kvquilt_cache_node.eviction.quotas import DEFAULT_NAMESPACE, Quota, Quotas
from kvquilt_cache_node.redis_url import RedisUrl
from kvquilt_cache_node.rules import StayRules
from kvquilt_cache_node.tier_settings import TierSettings
from kvquilt_cache_node.types import DEPARTURES_KEPT
from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.identity import check_namespace
from kvquilt_codec.lifetime import MAX_TTL_SECONDS, LifetimePolicy
from kvquilt_rpc.metrics.types import MetricsSettings
from kvquilt_rpc.security import ServerSecurity


class NamespaceQuota(BaseModel):
    """What a namespace may hold of a node's store."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    floor: ByteSize = Field(ByteSize(0), ge=0, description="Bytes that no other namespace's put evicts.")
    share: float = Field(1.0, gt=0, le=1e6, description="Of what is beyond all floors, relative to other namespaces.")
    cap: ByteSize | None = Field(None, gt=0, description="Most bytes; unset: the store's own cap alone.")


SHARED_POLICIES = ("gdsf", "lru")
"""Eviction policies that nodes can follow together: what they go by is a function of an object's row."""


def default_data_dir() -> Path:
    """Where the embedded store lives by default: `$XDG_DATA_HOME/kvquilt`, else `~/.local/share/kvquilt`."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "kvquilt"


class NodeSettings(EncryptionSettings, TierSettings, MetricsSettings):
    """A cache node."""

    host: str = Field("127.0.0.1", description="Address to listen on; or unix:PATH, which has no port.")
    port: int = Field(7411, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    health_port: int | None = Field(
        None, ge=0, le=65535, description="Port where health alone is answered, in clear, for probes; unset: none."
    )
    store: Literal["file", "memory", "redis", "object"] = Field("file", description="Where objects are kept.")
    path: Path = Field(
        default_factory=default_data_dir,
        description="Folder of the file store, or of the index of redis and object.",
    )
    redis_url: SecretStr | None = Field(
        None, description="Redis or Valkey: redis[s]://, redis[s]+cluster://, redis[s]+sentinel:// or unix://."
    )
    redis_prefix: str = Field("kvquilt", description="What the names of all keys in Redis begin with.")
    redis_ca: Path | None = Field(None, description="PEM file of the authorities for TLS; unset takes the system's.")
    redis_certificate: Path | None = Field(None, description="PEM file of the client certificate, if Redis wants one.")
    redis_key: Path | None = Field(None, description="PEM file of that certificate's key.")
    redis_connections: int = Field(8, ge=1, le=1024, description="Most commands at once; further ones wait.")
    redis_timeout: float = Field(5.0, gt=0, description="Seconds that one command may take, its waiting included.")
    index: Literal["sqlite", "redis"] = Field(
        "sqlite", description="Where the index is kept; nodes share a store if they share blobs and index."
    )
    lease_seconds: float = Field(
        30.0, ge=1, le=3600, description="After so long, what a node that died had reserved in Redis is free again."
    )
    object_url: str | None = Field(
        None, description="Object storage: s3://BUCKET/PREFIX, gs://..., az://... or file:///FOLDER."
    )
    object_endpoint: str | None = Field(None, description="URL of an S3 service other than Amazon's.")
    object_key_id: str | None = Field(None, description="Access key (S3) or account (Azure); else the environment's.")
    object_secret: SecretStr | None = Field(
        None,
        description="Secret key (S3), account key (Azure), account in JSON (Google); else the environment's.",
    )
    object_timeout: float = Field(30.0, gt=0, description="Seconds that one request may take.")
    object_retries: int = Field(3, ge=0, le=20, description="How often a request that failed is sent again.")
    capacity: ByteSize = Field(
        ByteSize(10 << 30), gt=0, description="Byte cap of the store; `node.eviction` says what makes room."
    )
    memory_bytes: ByteSize | None = Field(
        None,
        ge=0,
        description="Memory for objects in use, in front of the store; 0: none. Unset: 512 MiB for redis and object.",
    )
    eviction: str = Field(DEFAULT, description=f"What makes room in a full store: {', '.join(POLICIES)}.")
    namespaces: dict[str, NamespaceQuota] = Field(
        default_factory=dict,
        description="Floor, share and cap of namespaces by name; * is every other one. Empty: all share one store.",
    )
    departures: int = Field(
        DEPARTURES_KEPT,
        ge=0,
        le=1 << 24,
        description="Objects that left and are remembered, by digest; 0 for none.",
    )
    ttl: float = Field(
        0.0, ge=0, le=MAX_TTL_SECONDS, description="Seconds that objects stay which are put without a TTL; 0: for good."
    )
    ttl_renewed: bool = Field(False, description="Whether each use of such an object begins its TTL anew.")
    max_ttl: float = Field(
        0.0, ge=0, le=MAX_TTL_SECONDS, description="Longest TTL, which what is put without one gets too; 0: no limit."
    )
    pinned_fraction: float = Field(0.5, ge=0, le=0.9, description="Most of the capacity that pinned objects take.")
    read_lease: float = Field(
        10.0, ge=0, le=600, description="Seconds that an object which is being read is not evicted; 0: none."
    )
    sweep_seconds: float = Field(
        5.0, gt=0, le=600, description="Between two rounds that delete what expired, or could not be deleted."
    )
    max_object: ByteSize = Field(ByteSize(1 << 30), gt=0, description="Largest payload of one put.")
    max_calls: int = Field(256, ge=1, description="Calls at once but gets and puts; further ones are refused.")
    max_transfers: int = Field(64, ge=1, description="Gets and puts at once; further ones wait.")
    max_waiting: int = Field(64, ge=0, description="Gets and puts that wait; further ones are refused.")
    put_bytes: ByteSize = Field(
        ByteSize(1 << 30), gt=0, description="Most bytes that puts hold at once; what would be more is refused."
    )
    fsync: bool = Field(True, description="Flush every put to the medium before it is acknowledged.")
    drain_seconds: float = Field(10.0, ge=0, description="Time that running calls get to finish at shutdown.")
    max_connection_age: float = Field(
        300.0, ge=0, description="Seconds after which a connection takes no new calls; clients make another. 0: never."
    )
    keep_freed_memory: bool = Field(True, description="Tell the allocator of glibc to keep freed memory.")
    security: ServerSecurity = ServerSecurity()

    @property
    def memory_tier(self) -> int:
        """Bytes of memory in front of the store."""
        if self.memory_bytes is not None:
            return int(self.memory_bytes)
        return 512 << 20 if self.store in ("redis", "object") else 0

    @property
    def hot_folder(self) -> Path:
        """Folder of a hot tier in files."""
        return self.path / "hot" if self.hot_path is None else self.hot_path

    @property
    def queue_folder(self) -> Path:
        """Folder of the write queue: what waits is for this store."""
        return self.path / self.store / "queue"

    @property
    def quotas(self) -> Quotas | None:
        """Of `namespaces`; `None`: there are none, and no namespace is looked at when room is made."""
        if not self.namespaces:
            return None
        return Quotas(
            {
                name: Quota(int(quota.floor), quota.share, None if quota.cap is None else int(quota.cap))
                for name, quota in self.namespaces.items()
            }
        )

    @field_validator("namespaces", mode="before")
    @classmethod
    def _read(cls, given: object) -> object:
        """A mapping as a variable or a flag gives it: in JSON."""
        try:
            return json.loads(given) if isinstance(given, str) else given
        except ValueError as error:
            raise ValueError(f"expected a mapping in JSON; got {error}") from None

    @model_validator(mode="after")
    def _quotas_fit(self) -> "NodeSettings":
        for name, quota in self.namespaces.items():
            if name != DEFAULT_NAMESPACE:
                try:
                    check_namespace(name)
                except BadRequestError as error:
                    raise ValueError(str(error)) from None
            if quota.cap is not None and quota.cap < quota.floor:
                raise ValueError(f"expected a cap of namespace {name!r} of at least its floor; got {quota.cap}")
        floors = sum(int(quota.floor) for quota in self.namespaces.values())
        if floors > self.capacity:
            raise ValueError(f"expected floors of at most node.capacity, {int(self.capacity)}, together; got {floors}")
        return self

    @model_validator(mode="after")
    def _largest_put_fits(self) -> "NodeSettings":
        if self.put_bytes < self.max_object:
            least, got = int(self.max_object), int(self.put_bytes)
            raise ValueError(f"expected node.put_bytes of at least node.max_object, {least}; got {got}")
        return self

    @property
    def rules(self) -> StayRules:
        """How long objects stay."""
        return StayRules(
            LifetimePolicy(self.ttl, self.ttl_renewed, self.max_ttl), self.pinned_fraction, self.read_lease
        )

    @field_validator("eviction", "hot_eviction")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in POLICIES:
            raise ValueError(f"expected one of {', '.join(POLICIES)}; got {name!r}")
        return name

    @model_validator(mode="after")
    def _store_has_a_place(self) -> "NodeSettings":
        for url in (self.redis_url, self.hot_redis_url):
            if url is not None:
                try:
                    RedisUrl.parse(url.get_secret_value())
                except BadRequestError as error:
                    raise ValueError(str(error)) from None
        if (self.store == "redis" and self.redis_url is None) or (self.store == "object" and self.object_url is None):
            raise ValueError(f"expected node.{self.store}_url with node.store={self.store}; it is unset")
        if self.index == "redis" and self.redis_url is None:
            raise ValueError("expected node.redis_url with node.index=redis; it is unset")
        if self.index == "redis" and self.store in ("file", "memory"):
            raise ValueError(f"expected node.store redis or object with node.index=redis; got {self.store}")
        if self.index == "redis" and self.eviction not in SHARED_POLICIES:
            shared = " or ".join(SHARED_POLICIES)
            raise ValueError(f"expected node.eviction {shared} with node.index=redis; got {self.eviction}")
        return self

    @model_validator(mode="after")
    def _tiers_have_something_below(self) -> "NodeSettings":
        if self.store == "memory" and (self.hot_store != "none" or self.write_mode == "back"):
            raise ValueError("expected node.store file, redis or object below a hot tier or a write queue; got memory")
        if self.write_mode == "back" and self.index == "redis":
            # Another node would find a row whose bytes are in this one's queue, and drop it.
            raise ValueError(
                "expected node.index=sqlite with node.write_mode=back, for a queue is of one node; got redis"
            )
        if self.hot_store == "redis":
            if self.redis_url is None and self.hot_redis_url is None:
                raise ValueError(
                    "expected node.hot_redis_url or node.redis_url with node.hot_store=redis; both are unset"
                )
            if self.hot_redis_prefix == self.redis_prefix:
                raise ValueError("expected a node.hot_redis_prefix other than node.redis_prefix; they are the same")
        return self
