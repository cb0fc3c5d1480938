"""The vocabulary of `kvquilt connect`. Read this file first."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kvquilt.states import ModelInfo, Status
from kvquilt_rpc.security import Credentials


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be connected.

    Attributes:
        router: its address.
        credentials: as whom an engine calls it.
        status: of the router.
        model: the one of its models that the engine serves.
        folder: of that model, as the engine is told; empty: not named.
        verified: the folder's weights, tokenizer and configuration are the router's model.
        namespaces: of tenants, by the `cache_salt` of their requests.
    """

    router: str
    credentials: Credentials
    status: Status
    model: ModelInfo
    folder: str = ""
    verified: bool = False
    namespaces: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Connection:
    """What to paste.

    Attributes:
        engine: "vllm", "lmcache" or "transformers".
        router: address of the router.
        model: its name there.
        model_fingerprint: hex digest.
        data_type: that router and engine compute in.
        verified: see `Asked`.
        config: what the engine reads as JSON; empty where it reads none.
        lines: of a shell, or of Python.
        warnings: what will not work as it could, each with what to do.
    """

    engine: str
    router: str
    model: str
    model_fingerprint: str
    data_type: str
    verified: bool
    config: Mapping[str, Any]
    lines: tuple[str, ...]
    warnings: tuple[str, ...]
