"""The vocabulary of explaining misses: what is kept of a request, and what is found out when somebody asks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from kvquilt_codec.catalog import ObjectInfo
from kvquilt_codec.tiers import Tier
from kvquilt_codec.traces import DEPARTURES
from kvquilt_codec.types import TokenIds
from kvquilt_router.gate.types import Decision
from kvquilt_router.types import BlendOptions, ChunkRef, Extent, Indices

CAUSES = (
    *DEPARTURES,
    "queued",
    "not_kept",
    "other_prefix",
    "other_form",
    "other_context",
    "other_model",
    "other_namespace",
    "edited",
    "normalised",
    "cut_elsewhere",
    "never_stored",
    "undetermined",
)
"""What explains a chunk that was not stored. Every other miss is explained by its own reason (`MISS_REASONS`)."""

OUTCOMES = ("exact", "blended", "recomputed", "computed")


@dataclass(frozen=True, slots=True, eq=False)
class ChunkRecord:
    """What became of one run of a prompt's context.

    Attributes:
        ref: the run; its token ids are a view of the record's.
        miss_reason: empty if it was served.
        context: of the stored KV that was used, or that the gate kept out; empty if there was none.
        source: the stored object that it was served from, and the run's first token in it; `None` if it was missed.
        recomputed: how many of its tokens were computed again.
        queued: it was missed while it waited to be stored.
        fetched_bytes: what came for it.
        tier: that it was read from; `None` if it was missed.
    """

    ref: ChunkRef
    miss_reason: str
    context: str
    source: tuple[ObjectInfo, int] | None
    recomputed: int
    queued: bool = False
    fetched_bytes: int = 0
    tier: Tier | None = None

    @property
    def outcome(self) -> str:
        """One of `OUTCOMES`."""
        if self.source is None:
            return "computed"
        if self.recomputed == len(self.ref.token_ids):
            return "recomputed"
        return "exact" if self.context == "exact" and not self.recomputed else "blended"


@dataclass(frozen=True, slots=True)
class Served:
    """What was given for a request, as its report says it.

    Attributes:
        extent: what of the prompt's KV was sent.
        first: of an exact head: of which token on, ...
        end: ... and up to which one.
        tokens: by what became of them: "exact", "reused", "recomputed", "computed".
        tiers: tokens with stored KV by the tier that it was read from.
        fetched_bytes: what came from cache nodes.
        seconds: by step; see `BlendReport`.
        saved_seconds: see there, as the next one.
        observed_deviation: see there.
    """

    extent: Extent
    first: int
    end: int
    tokens: Mapping[str, int]
    tiers: Mapping[Tier, int]
    fetched_bytes: int
    seconds: Mapping[str, float]
    saved_seconds: float | None
    observed_deviation: float


NOTHING_SERVED = Served(
    Extent.NOTHING, 0, 0, MappingProxyType({}), MappingProxyType({}), 0, MappingProxyType({}), None, 0.0
)


@dataclass(frozen=True, slots=True, eq=False)
class RequestRecord:
    """A request as it was served: no text and no KV, but the prompt's token ids.

    Attributes:
        request_id: 32 hex digits, drawn at random; empty for a prompt that was only looked up.
        at: when it was finished, in seconds since the epoch; `None` for a prompt that was only looked up.
        token_ids: of the whole prompt.
        prefix: how many of them are the shared prefix.
        options: what was asked for.
        decision: the gate's.
        chunks: ascending.
        recomputed: positions of the tokens that were computed again, ascending.
        served: what was given; nothing for a prompt that was only looked up.
        audited_kl: what an audit found, in nats; `None`: there was none, or not yet.
    """

    request_id: str
    at: float | None
    token_ids: TokenIds
    prefix: int
    options: BlendOptions
    decision: Decision
    chunks: tuple[ChunkRecord, ...]
    recomputed: Indices = field(default_factory=lambda: np.empty(0, np.int64))
    served: Served = NOTHING_SERVED
    audited_kl: float | None = None

    @property
    def nbytes(self) -> int:
        """What it takes in memory, about."""
        return self.token_ids.nbytes + self.recomputed.nbytes + 1024 + 1024 * len(self.chunks)


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where a run of a prompt and a stored chunk part; both are compared from their beginnings.

    Attributes:
        offset: of the first token that differs, in the run as in the stored chunk.
        expected: the stored token there; `None`: the stored chunk ends there.
        got: the run's; `None`: it ends there.
        same_begin: first token of the longest stretch that both have, in the run.
        same_stored: and in the stored chunk.
        same_tokens: its length; 0 if there is none.
    """

    offset: int
    expected: int | None
    got: int | None
    same_begin: int
    same_stored: int
    same_tokens: int


@dataclass(frozen=True, slots=True)
class DivergenceFound:
    """A divergence at its place in the prompt, with the text around it.

    Attributes:
        divergence: offsets from the beginning of what was compared.
        begin: where that lies in the prompt.
        stored_tokens: length of the stored chunk.
        stored_begin: where comparing began in it.
        before: text that is the same before the place; empty without a tokenizer, as the next two.
        expected: how the stored text goes on.
        got: how the prompt's does.
    """

    divergence: Divergence
    begin: int
    stored_tokens: int
    stored_begin: int = 0
    before: str = ""
    expected: str = ""
    got: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a chunk was missed.

    Attributes:
        cause: one of `CAUSES` or of `MISS_REASONS`; empty: it was served.
        stored_since: what would serve it has been stored since the request.
        departed: when it left the store, in seconds since the epoch.
        divergence: from the nearest stored chunk.
        namespace: where it is stored.
        other_model: fingerprint of the model that it is stored for.
        differences: names of the parts of the fingerprint that differ; empty: not known.
        stored_form: what is stored.
        predicted_kl: least that the gate would predict.
        detail: why it was not kept, or why the cause is not known.
    """

    cause: str = ""
    stored_since: bool = False
    departed: float | None = None
    divergence: DivergenceFound | None = None
    namespace: str = ""
    other_model: str = ""
    differences: tuple[str, ...] = ()
    stored_form: str = ""
    predicted_kl: float | None = None
    detail: str = ""
