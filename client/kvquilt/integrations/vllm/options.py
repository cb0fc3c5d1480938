"""What the operator sets (`kv_connector_extra_config`) and what a request says (`kv_transfer_params["kvquilt"]`)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ByteSize, ConfigDict, Field, ValidationError

from kvquilt.aio import DEFAULT_TARGET
from kvquilt.worker import Extent, WorkerRequest
from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.levels import parse_level
from kvquilt_codec.types import TokenIds
from kvquilt_rpc.security import Credentials

PARAMETER = "kvquilt"
"""The key of a request's `kv_transfer_params` that is ours, in requests and in responses."""
ELSEWHERE = frozenset({"prompt_token_ids", "do_remote_prefill", "do_remote_decode"})
"""Keys of `kv_transfer_params` that say that vLLM moves this request's KV itself."""


def _checked_level(text: str | None) -> str | None:
    if text is not None:
        try:
            parse_level(text)
        except BadRequestError as error:
            raise ValueError(str(error)) from None
    return text


LevelName = Annotated[str | None, AfterValidator(_checked_level)]


class ConnectorSettings(BaseModel):
    """`kv_connector_extra_config`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str = Field(DEFAULT_TARGET, description="The router.")
    credentials: Credentials = Field(Credentials(), description="As whom to call it, and TLS; settings as `client.*`.")
    model_fingerprint: str = Field(
        "",
        pattern=r"^([0-9a-f]{64})?$",
        description="Fingerprint of the model, as `kvquilt status --json` shows it; empty: computed from its folder.",
    )
    extent: Literal["auto", "exact", "prompt"] = Field(
        "auto", description="What is loaded: exact prefixes only, blended prompts, or what is the fastest."
    )
    level: LevelName = Field(None, description="Codec level: a name, or a bound like kl<1e-3; unset: the router's.")
    policy: str | None = Field(None, description="Recompute policy; unset: the router's.")
    max_kl: float | None = Field(None, gt=0, description="Most divergence of blends, in nats; unset: the router's.")
    load: bool = Field(True, description="Load KV from the cache.")
    save: bool = Field(True, description="Save the KV of prompts that vLLM computed.")
    save_answers: bool = Field(True, description="Save the KV of answers too, so that a next turn finds the whole.")
    min_load_tokens: int = Field(64, ge=1, description="Fewer are computed.")
    min_save_tokens: int = Field(128, ge=1, description="Fewer new ones are not saved.")
    plan_seconds: float = Field(0.5, gt=0, description="How long a request waits for the router's plan.")
    load_seconds: float = Field(10.0, gt=0, description="How long loading may take; then vLLM computes.")
    ttl: float | None = Field(
        None, gt=0, description="Seconds that saved KV stays at most; unset: the router's default."
    )
    ttl_renewed: bool = Field(False, description="Each use begins the ttl anew.")
    transient: bool = Field(False, description="The router keeps no record of requests, and nothing of them is saved.")
    save_bytes: ByteSize = Field(ByteSize(512 << 20), ge=0, description="Copied KV that waits to be saved.")
    loads: int = Field(4, ge=1, le=64, description="Requests loaded at once by a worker.")
    namespaces: Mapping[str, str] = Field(
        {}, description="Namespaces by `cache_salt`. A request with another salt neither loads nor saves."
    )
    prefix_tokens: int | None = Field(
        None, ge=0, description="Length of what all prompts begin with, for requests with documents that do not say it."
    )


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """What one request says; settings that it leaves out are the operator's.

    Attributes:
        request: what the worker library is asked.
        load: whether KV is loaded for it.
        save: whether its KV is saved.
        document_ids: under which saved chunks can be forgotten.
        ttl: seconds that they stay at most; `None`: the router's default.
        ttl_renewed: each use begins them anew.
    """

    request: WorkerRequest
    load: bool
    save: bool
    document_ids: tuple[str, ...]
    ttl: float | None
    ttl_renewed: bool


class _Said(BaseModel):
    """`kv_transfer_params["kvquilt"]` of a request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    off: bool = False
    load: bool = True
    save: bool = True
    prefix_tokens: int | None = Field(None, ge=0)
    document_tokens: tuple[Annotated[int, Field(ge=0)], ...] = Field((), max_length=4096)
    documents: tuple[str, ...] = Field((), max_length=4096)
    document_ids: tuple[str, ...] = Field((), max_length=4096)
    public: tuple[Annotated[int, Field(ge=0)], ...] = Field((), max_length=4096)
    extent: Literal["auto", "exact", "prompt"] | None = None
    level: LevelName = None
    policy: str | None = None
    recompute_ratio: float | None = Field(None, ge=0, le=1)
    max_kl: float | None = Field(None, gt=0)
    ttl: float | None = Field(None, gt=0)
    ttl_renewed: bool | None = None
    transient: bool | None = None


Locate = Callable[[TokenIds, Sequence[str], int], tuple[int, tuple[int, ...]]]
"""Finds documents' texts in a prompt, as `kvquilt.worker.boundaries` finds their tokens."""


def parse_settings(extra: Mapping[str, Any]) -> ConnectorSettings:
    """The operator's settings.

    Raises:
        BadRequestError: an unknown name, or a value that cannot be.
    """
    try:
        settings = ConnectorSettings.model_validate(dict(extra))
    except ValidationError as error:
        raise BadRequestError(f"expected settings of kv_connector_extra_config; got {_first(error)}") from None
    if settings.ttl_renewed and settings.ttl is None:
        raise BadRequestError("expected a ttl with ttl_renewed in kv_connector_extra_config; there is none")
    return settings


def parse_request(
    settings: ConnectorSettings,
    params: Mapping[str, Any] | None,
    salt: str | None,
    token_ids: list[int],
    locate: Locate,
) -> RequestOptions:
    """What a request says about its prompt of `token_ids`; empty documents are left out.

    Raises:
        BadRequestError: something unknown, lengths beyond the prompt, texts that are not in it, or a salt that is
            mapped to no namespace.
    """
    if params and not ELSEWHERE.isdisjoint(params):
        raise BadRequestError("expected a request whose KV vLLM leaves to kvquilt", reason="moved_by_vllm")
    try:
        said = _Said.model_validate((params or {}).get(PARAMETER) or {})
    except ValidationError as error:
        raise BadRequestError(f"expected kv_transfer_params.kvquilt as documented; got {_first(error)}") from None
    namespace = ""
    if salt:
        if salt not in settings.namespaces:
            raise BadRequestError(
                "expected a cache_salt that is mapped to a namespace (namespaces in kv_connector_extra_config)",
                reason="unknown_namespace",
            )
        namespace = settings.namespaces[salt]
    prompt = np.asarray(token_ids, np.uint32)
    documents = tuple(filter(None, said.document_tokens))
    prefix = said.prefix_tokens
    if said.documents:
        if documents:
            raise BadRequestError("expected documents, or document_tokens; got both")
        prefix, documents = locate(prompt, said.documents, prefix or 0)
    if prefix is None and (documents or said.public):
        prefix = settings.prefix_tokens or 0
    request = WorkerRequest(
        token_ids=prompt,
        prefix_tokens=prefix,
        document_tokens=documents,
        public=frozenset(said.public),
        extent=Extent(said.extent or settings.extent),
        level=said.level or settings.level,
        policy=said.policy or settings.policy,
        recompute_ratio=said.recompute_ratio,
        max_kl=settings.max_kl if said.max_kl is None else said.max_kl,
        namespace=namespace,
        least_tokens=settings.min_load_tokens,
        transient=settings.transient if said.transient is None else said.transient,
    )
    ttl = settings.ttl if said.ttl is None else said.ttl
    renewed = settings.ttl_renewed if said.ttl_renewed is None else said.ttl_renewed
    if renewed and ttl is None:
        raise BadRequestError("expected a ttl with ttl_renewed; there is none")
    on = not said.off
    return RequestOptions(
        request,
        on and said.load and settings.load,
        on and said.save and settings.save and not request.transient,
        said.document_ids,
        ttl,
        renewed,
    )


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    return f"{'.'.join(map(str, found['loc'])) or 'nothing'}: {found['msg']}"
