"""Settings of a router; each is documented here and listed by `kvquilt config show`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ByteSize, ConfigDict, Field, SecretStr

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.levels import parse_level
from kvquilt_codec.lifetime import MAX_TTL_SECONDS, Ttl
from kvquilt_codec.types import MAX_CHUNK_TOKENS
from kvquilt_router.access_log import MIN_BYTES
from kvquilt_router.status_page.settings import Names, StatusPageSettings
from kvquilt_rpc.metrics.types import MetricsSettings
from kvquilt_rpc.nodes.membership import parse_address
from kvquilt_rpc.nodes.types import PoolOptions
from kvquilt_rpc.security import Credentials, ServerSecurity

AUTO = "auto"
"""A policy by default: the cheapest that the gate passes."""


def _checked_level(text: str) -> str:
    try:
        parse_level(text)
    except BadRequestError as error:
        raise ValueError(str(error)) from None
    return text


def _checked_nodes(entries: tuple[str, ...]) -> tuple[str, ...]:
    try:
        for entry in entries:
            parse_address(entry)
    except BadRequestError as error:
        raise ValueError(str(error)) from None
    return entries


NodeAddresses = Annotated[Names, AfterValidator(_checked_nodes)]


class RouterSettings(StatusPageSettings, MetricsSettings):
    """A router."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on; or unix:PATH, which has no port.")
    port: int = Field(7410, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    health_port: int | None = Field(None, ge=0, le=65535, description="As node.health_port.")
    nodes: NodeAddresses = Field(
        ("127.0.0.1:7411",), description="The cache nodes: HOST:PORT or dns:///NAME:PORT, each with =WEIGHT if wanted."
    )
    shared_store: bool = Field(False, description="All nodes have the same stores: any of them serves any chunk.")
    resolve_seconds: float = Field(5.0, gt=0, description="Seconds between two look-ups of the names among the nodes.")
    health_seconds: float = Field(2.0, gt=0, description="Seconds between two health probes of a node.")
    hot_uses: int = Field(8, ge=0, description="Uses in a while that let several nodes serve a chunk; 0 for never.")
    hot_seconds: float = Field(10.0, gt=0, description="How long that while is.")
    hot_replicas: int = Field(2, ge=1, description="Nodes that such a chunk is read from, with a shared store.")
    model: str = Field("smollm2", description='Folder of a Hugging Face model, or "smollm2" for the demo model.')
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = Field("float32", description="Type to compute in.")
    device: str = Field("cpu", description="torch device of the model.")
    threads: int = Field(0, ge=0, description="Threads of torch on a CPU; 0 leaves torch's default.")
    policy: str = Field(
        "auto", description="Recompute policy of requests that name none; auto takes the cheapest that the gate passes."
    )
    recompute_ratio: float | None = Field(
        None, ge=0, le=1, description="Share of reused tokens to recompute by default; unset leaves it to the gate."
    )
    max_kl: float = Field(
        0.3, gt=0, description="Most divergence that the gate may predict: KL of an answer's tokens, in nats."
    )
    gate: str = Field(
        "auto", description="Blend gate: a file, empty for none, or auto for the profile's: beside it, or on the node."
    )
    ungated: bool = Field(False, description="Blend as asked, whatever was measured; for evaluation only.")
    audit_share: float = Field(
        0.01, ge=0, le=1, description="Share of blends that are compared with a full prefill, in the background."
    )
    level: Annotated[str, AfterValidator(_checked_level)] = Field(
        "high", description="Codec level of documents by default: a name, or a bound like kl<1e-3."
    )
    profile: str = Field(
        "auto", description="Codec profile: a file, a digest, empty for none, or auto for the cached one, if any."
    )
    chunk_tokens: int = Field(512, ge=1, le=MAX_CHUNK_TOKENS, description="Documents are cut into chunks this long.")
    namespace: str = Field("public", description="Namespace of callers that nobody asks who they are.")
    master_secret: SecretStr | None = Field(
        None,
        description="Secrets of all namespaces are derived from it: 32 bytes; unset, only the public one is served.",
    )
    max_namespaces: int = Field(
        256, ge=1, description="Namespaces whose corpora, prefixes and anchors are remembered; the latest used stay."
    )
    ttl: float = Field(
        0.0, ge=0, le=MAX_TTL_SECONDS, description="TTL in seconds of what is stored without one; 0 leaves it to nodes."
    )
    ttl_renewed: bool = Field(False, description="Whether each use of it begins that TTL anew.")
    stat_deadline: float = Field(1.0, gt=0, description="Seconds to look chunks up; later ones count as missed.")
    fetch_deadline: float = Field(5.0, gt=0, description="Seconds to fetch a request's chunks; later ones are missed.")
    put_deadline: float = Field(60.0, gt=0, description="Seconds to store one chunk.")
    fetch_concurrency: int = Field(4, ge=1, le=64, description="Chunks fetched at once, with held_bytes.")
    pipeline: bool = Field(
        True, description="Compute a request's first layers while its chunks' last ones are still fetched and decoded."
    )
    balance: bool = Field(
        False,
        description="Recompute more than the gate asks for, at a ratio that it measured, if chunks are slow to come.",
    )
    held_bytes: ByteSize = Field(
        ByteSize(0), ge=0, description="Encoded chunks kept in memory, so that finer levels fetch only what is missing."
    )
    anchor_bytes: ByteSize = Field(
        ByteSize(1 << 30), ge=0, description="Memory of what the policy anchors has learned, for each model."
    )
    max_calls: int = Field(256, ge=1, description="Calls at once, those that wait included; further ones are refused.")
    max_blends: int = Field(4, ge=1, description="Blends at once; further ones wait. Each holds a prompt's KV.")
    max_loads: int = Field(
        8, ge=1, description="Loads of exact heads at once; further ones wait. Each holds a head's KV."
    )
    max_waiting: int = Field(
        32, ge=0, description="Blends that wait, and as many loads; further ones are refused, as is what would be late."
    )
    save_bytes: ByteSize = Field(
        ByteSize(1 << 30), ge=1, description="Most KV that workers' saves hold at once; beyond it they are refused."
    )
    warm_up_passages: int = Field(
        8, ge=0, le=32, description="Most passages of the same corpus that chunks are computed after; 0 for none."
    )
    attention_sums: bool = Field(
        False, description="Keep what stored chunks attended to, which the policy contextual chooses by."
    )
    background: bool = Field(
        True, description="Store what requests missed, and neighbours they saw, after them, in the background."
    )
    background_share: float = Field(
        0.1,
        ge=0,
        le=0.5,
        description="Share of the engine that storing and prefetching get where requests would leave them none.",
    )
    background_queue: int = Field(256, ge=1, description="Most chunks that wait for that; further ones are dropped.")
    pair_bytes: ByteSize = Field(
        ByteSize(1 << 30), ge=0, description="Most bytes that a router stores because it saw chunks as neighbours."
    )
    access_log: Path | None = Field(
        None, description="Folder of the access log, which `kvquilt simulate` reads; unset writes none."
    )
    access_log_seconds: float = Field(60.0, gt=0, description="Seconds after which a request is written to it.")
    access_log_bytes: ByteSize = Field(
        ByteSize(1 << 30), ge=MIN_BYTES, description="Most bytes of its files; the oldest make room."
    )
    access_log_files: int = Field(10_000, ge=1, description="Most of its files; the oldest make room.")
    requests_kept: int = Field(
        256, ge=0, description="Latest requests of a namespace that can be asked about; 0 keeps none of their tokens."
    )
    requests_bytes: ByteSize = Field(
        ByteSize(4 << 20), ge=0, description="Most memory of their records, for each namespace."
    )
    requests_seconds: float = Field(3600.0, gt=0, description="How long a request can be asked about.")
    drain_seconds: float = Field(30.0, ge=0, description="Time that running calls get to finish at shutdown.")
    max_connection_age: float = Field(300.0, ge=0, description="As node.max_connection_age.")
    keep_freed_memory: bool = Field(True, description="As node.keep_freed_memory.")
    security: ServerSecurity = ServerSecurity()
    node_credentials: Credentials = Credentials()

    @property
    def default_ttl(self) -> Ttl | None:
        """Time to live of what is stored without one."""
        return Ttl(self.ttl, self.ttl_renewed) if self.ttl else None

    def pool_options(self) -> PoolOptions:
        """How the cache nodes are called."""
        return PoolOptions(
            shared_store=self.shared_store,
            resolve_seconds=self.resolve_seconds,
            health_seconds=self.health_seconds,
            hot_uses=self.hot_uses,
            hot_seconds=self.hot_seconds,
            hot_replicas=self.hot_replicas,
        )
