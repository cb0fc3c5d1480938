"""Settings of a cache node; each is documented here and listed by `kvquilt config show`."""

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, field_validator

from kvquilt_cache_node.eviction import DEFAULT, POLICIES


def default_data_dir() -> Path:
    """Where the embedded store lives by default: `$XDG_DATA_HOME/kvquilt`, else `~/.local/share/kvquilt`."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "kvquilt"


class NodeSettings(BaseModel):
    """A cache node."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(7411, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    store: Literal["file", "memory"] = Field("file", description="Where objects are kept.")
    path: Path = Field(default_factory=default_data_dir, description="Folder of the file store.")
    capacity: ByteSize = Field(
        ByteSize(10 << 30), gt=0, description="Byte cap of the store; `node.eviction` says what makes room."
    )
    eviction: str = Field(DEFAULT, description=f"What makes room in a full store: {', '.join(POLICIES)}.")
    max_object: ByteSize = Field(ByteSize(1 << 30), gt=0, description="Largest payload of one put.")
    fsync: bool = Field(True, description="Flush every put to the medium before it is acknowledged.")
    drain_seconds: float = Field(10.0, ge=0, description="Time that running calls get to finish at shutdown.")

    @field_validator("eviction")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in POLICIES:
            raise ValueError(f"expected one of {', '.join(POLICIES)}; got {name!r}")
        return name
