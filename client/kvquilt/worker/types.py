"""The vocabulary of the worker library: what an engine asks the cache for, gets and gives. Read this file first.

Arrays are NumPy, `[kv_heads, tokens, dim]`, C-contiguous, of the model's own element type (bfloat16 as `ml_dtypes` has
it: view it as 16-bit words to hand it on without a copy). Keys are rotated to their positions in the prompt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from kvquilt.types import BlendReport
from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.types import Array, KVLayout, TokenIds


class Extent(Enum):
    """How much of a prompt's KV is asked for, or offered."""

    PROMPT = "prompt"
    """That of all tokens but the last; the router computes what is not stored."""
    EXACT = "exact"
    """That of the longest head of the prompt whose stored KV was computed in exactly this context. The router computes
    nothing, and no gate is needed. With a lossless level it is what the engine itself would compute."""
    AUTO = "auto"
    """One of these two or nothing: what the router estimates to give the earliest first token. Only asked for."""
    NOTHING = "nothing"
    """The engine computes the prompt. Only offered."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model that the engine runs.

    Attributes:
        fingerprint: hex digest, as `kvquilt status` and `kvquilt model --check` show it.
        layout: shapes and element type of its KV, all heads.
    """

    fingerprint: str
    layout: KVLayout


@dataclass(frozen=True, slots=True, eq=False)
class WorkerRequest:
    """One prompt, as the engine has it.

    Attributes:
        token_ids: `[tokens]`, all of them.
        prefix_tokens: length of what all prompts of the application begin with. `None`: the prompt is plain, its
            boundaries are not known, and known chunks are found in it at any offset.
        document_tokens: lengths of the documents that follow the shared prefix; what follows them is the question. Only
            with `prefix_tokens`.
        public: segments that everybody may know: 0 is the shared prefix, 1 the first document.
        extent: how much is wanted.
        computed_tokens: the engine has KV of so many first tokens: theirs is not sent.
        least_tokens: an exact head that gives it fewer is not offered.
        seconds_per_token: what the engine takes to compute a token of a prompt; `None`: as `WorkerCache.prefilled` was
            told, else as the router takes.
        level: codec level by name, or a bound like "kl<1e-3"; `None`, here and below, takes the router's default.
        policy: recompute policy by name.
        recompute_ratio: share of reused tokens to recompute, 0 to 1.
        max_kl: most divergence from a full prefill that the gate may predict, in nats.
        namespace: to act in; empty: the credentials', else the identity's first.
        transient: the router keeps no record of it, and nothing is stored because of it but what is saved.

    Raises:
        BadRequestError: lengths that do not fit the tokens, or no tokens.
    """

    token_ids: TokenIds
    prefix_tokens: int | None = None
    document_tokens: tuple[int, ...] = ()
    public: frozenset[int] = frozenset()
    extent: Extent = Extent.AUTO
    computed_tokens: int = 0
    least_tokens: int = 1
    seconds_per_token: float | None = None
    level: str | None = None
    policy: str | None = None
    recompute_ratio: float | None = None
    max_kl: float | None = None
    namespace: str = ""
    transient: bool = False

    def __post_init__(self) -> None:
        tokens = len(self.token_ids)
        if tokens == 0:
            raise BadRequestError("expected a prompt of at least one token; it is empty")
        if self.prefix_tokens is None and (self.document_tokens or self.public):
            raise BadRequestError("expected prefix_tokens (0 for none) with documents or public segments; it is None")
        lengths = (self.prefix_tokens or 0, *self.document_tokens)
        if min(lengths) < 0 or any(length < 1 for length in self.document_tokens) or sum(lengths) >= tokens:
            raise BadRequestError(
                f"expected a shared prefix, documents of at least one token and a question, {tokens} tokens in all; "
                f"got lengths {lengths[:8]}"
            )
        if not 0 <= self.computed_tokens <= tokens:
            raise BadRequestError(f"expected computed_tokens in 0..{tokens}; got {self.computed_tokens}")
        if self.least_tokens < 1:
            raise BadRequestError(f"expected least_tokens of at least 1; got {self.least_tokens}")
        if self.extent is Extent.NOTHING:
            raise BadRequestError("expected an extent to ask for: prompt, exact or auto; got nothing")


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What the router offers for a request. Nothing is held for it: what is lost meanwhile makes the load smaller.

    Attributes:
        extent: what a fetch will ask for; `NOTHING`: compute the prompt.
        first_token: KV is offered from this one on: the request's `computed_tokens`.
        kv_tokens: up to this one.
        exact_tokens: how far the head of the prompt goes whose stored KV was computed in exactly this context; of a
            request for `PROMPT` it is not looked for.
        stored_tokens: how far it goes in chunks that are cut as a save of this request would cut them: KV from here on
            is worth saving. Less than `exact_tokens` where the rest was stored with other boundaries.
        reason: why nothing is offered, a short code; empty if something is. docs/reference.md lists them.
        load_seconds: estimated time until all of it has come; this and the next two are `None` if nothing was measured.
        first_token_seconds: estimated time until the engine has its first token that way.
        compute_seconds: the same if it computes all that it lacks itself.
        predicted_kl: what the divergence stays below by measurement, of `PROMPT`, in nats; `None`: not known.
        gate_refusal: why stored KV of another context is not used; empty if it is, or there is none.
        blended_tokens: whose stored KV of another context would be used, at most; 0: all that is offered is exact.
        seconds: that the plan took.
        request_id: of a plan that offers nothing: names the request to `kvquilt why`; else it is in the load's report.
    """

    extent: Extent
    first_token: int = 0
    kv_tokens: int = 0
    exact_tokens: int = 0
    stored_tokens: int = 0
    reason: str = ""
    load_seconds: float | None = None
    first_token_seconds: float | None = None
    compute_seconds: float | None = None
    predicted_kl: float | None = None
    gate_refusal: str = ""
    blended_tokens: int = 0
    seconds: float = 0.0
    request_id: str = ""

    @property
    def tokens(self) -> int:
        """Tokens whose KV is offered."""
        return self.kv_tokens - self.first_token

    @property
    def exact(self) -> bool:
        """Whether all that is offered is exact: only such KV may be kept under the prompt's tokens alone."""
        return self.blended_tokens == 0


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a fetch brought. Unless `complete`, what was placed must not be used.

    Attributes:
        first_token: KV of the tokens from this one on came, ...
        kv_tokens: ... up to this one; less than planned if something was lost meanwhile.
        reason: why it is not complete, a short code; empty if it is.
        extent: what came.
        bytes: of KV that came.
        first_layer_seconds: until the first layer had come; `None`: it did not.
        seconds: that the fetch took.
        report: the router's; `None` if it did not come.
    """

    first_token: int
    kv_tokens: int
    reason: str
    extent: Extent
    bytes: int
    first_layer_seconds: float | None
    seconds: float
    report: BlendReport | None

    @property
    def complete(self) -> bool:
        """Whether KV of all layers came for the tokens from `first_token` up to `kv_tokens` (there may be none)."""
        return not self.reason

    @property
    def exact(self) -> bool:
        """Whether all of it was computed in exactly this context."""
        if self.report is None or not self.complete:
            return False
        return self.extent is not Extent.PROMPT or not (self.report.tokens_reused or self.report.tokens_recomputed)


LayerSink = Callable[[int, Array, Array], None]
"""Takes a layer's number, keys and values (`[kv_heads, tokens, dim]`), in order, as each comes. They are its own."""

LayerArrays = tuple[Array, Array]
"""Keys and values of one layer, each `[kv_heads, tokens, dim]`."""


@dataclass(frozen=True, slots=True, eq=False)
class KvToSave:
    """KV that the engine computed.

    Attributes:
        request: its tokens are all those that the KV belongs to, the answer's too; of a prompt with documents, what
            follows them is cut like a plain prompt.
        layers: of the tokens from `begin` on; neither they nor what they are views of may change until they are sent.
        exact_tokens: up to here the KV is what a prefill of these tokens gives: nothing in it was blended, or computed
            after something blended. Tokens beyond are not saved.
        begin: the first token that `layers` has.
        document_ids: under which the chunks can be forgotten.
        ttl_seconds: time to live, above 0; `None`: the router's default.
        ttl_renewed: each use begins it anew; only with `ttl_seconds`.
    """

    request: WorkerRequest
    layers: Sequence[LayerArrays]
    exact_tokens: int
    begin: int = 0
    document_ids: tuple[str, ...] = ()
    ttl_seconds: float | None = None
    ttl_renewed: bool = False


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How a `WorkerCache` behaves.

    Attributes:
        save_bytes: most bytes of KV that wait to be saved.
        save_deadline: seconds that saving one request's KV may take.
        drop_oldest: what makes room where they do not fit: what waits the longest, or else what comes is dropped.
        loads: fetches at once of `fetch_soon`.
        probe_first: seconds after which a router that was lost is probed; they double with each probe that fails.
        probe_last: most of them.
        probe_deadline: seconds that a probe may take.
    """

    save_bytes: int = 512 << 20
    save_deadline: float = 60.0
    drop_oldest: bool = False
    loads: int = 8
    probe_first: float = 0.5
    probe_last: float = 10.0
    probe_deadline: float = 2.0


REASONS = (
    "nothing_stored",
    "nothing_new",
    "too_short",
    "slower_than_computing",
    "router_lost",
    "closed",
)
"""Why nothing is offered; beside them the reasons of errors. docs/reference.md says what each means."""

COUNTERS = (
    "plans",
    "plans_exact",
    "plans_prompt",
    "plans_nothing",
    "plans_failed",
    "calls_skipped",
    "loads",
    "loads_less",
    "loads_failed",
    "tokens_loaded",
    "bytes_loaded",
    "saves_queued",
    "saves_dropped",
    "saves_done",
    "saves_failed",
    "tokens_saved",
    "bytes_saved",
    "router_lost",
    "router_found",
)
"""Counters of a worker; docs/reference.md says what each means."""
