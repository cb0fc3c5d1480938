"""Settings of the tiers of a store: the hot one in front, and the queue of writes that wait for it."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, SecretStr

from kvquilt_cache_node.eviction import DEFAULT, POLICIES


class TierSettings(BaseModel):
    """What `NodeSettings` has of tiers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hot_store: Literal["none", "memory", "file", "redis"] = Field(
        "none", description="Where copies of what is used again are kept, in front of the store."
    )
    hot_capacity: ByteSize = Field(ByteSize(4 << 30), gt=0, description="Byte cap of the hot tier.")
    hot_eviction: str = Field(DEFAULT, description=f"What makes room in a full hot tier: {', '.join(POLICIES)}.")
    hot_path: Path | None = Field(None, description="Folder of a hot tier in files; unset: `hot` below node.path.")
    hot_redis_url: SecretStr | None = Field(None, description="Redis of the hot tier; unset: node.redis_url.")
    hot_redis_prefix: str = Field("kvquilt-hot", description="What the names of its keys begin with; of one node.")
    hot_timeout: float = Field(0.5, gt=0, description="Seconds that a read of the hot tier may take.")
    write_mode: Literal["through", "back"] = Field(
        "through", description="What a put waits for: the store, or a durable queue on the node's disk."
    )
    queue_bytes: ByteSize = Field(ByteSize(1 << 30), gt=0, description="Byte cap of that queue.")
    queue_entries: int = Field(4096, ge=1, le=1 << 20, description="Most objects in that queue.")
