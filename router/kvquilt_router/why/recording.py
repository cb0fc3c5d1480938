"""From what was done for a request to the record of it, which holds neither its KV nor anything that refers to it."""

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import replace

import numpy as np

from kvquilt_codec.tiers import Tier
from kvquilt_codec.types import TokenIds
from kvquilt_router.blending import Blended
from kvquilt_router.offers import Loaded
from kvquilt_router.types import BlendReport, ChunkOutcome, Extent, Indices, Prompt
from kvquilt_router.why.records import RequestLog
from kvquilt_router.why.types import NOTHING_SERVED, ChunkRecord, RequestRecord, Served
from kvquilt_rpc import requests

_KINDS = ("exact", "reused", "recomputed", "computed")


def keep(done: Blended | Loaded, waiting: Set[bytes], log: RequestLog, at: float) -> str:
    """Keep a record of a finished request, before it leaves anything behind.

    Args:
        done: see there.
        waiting: keys of chunks that wait to be stored because of earlier requests.
        log: of its namespace.
        at: seconds since the epoch.

    Returns:
        The record's name, the id of the request that is served now; empty if there is no room for it.
    """
    request_id = requests.current().request_id
    recomputed = done.assembly.recomputed if isinstance(done, Blended) else np.empty(0, np.int64)
    record = _record(done.prompt, done.report, recomputed, waiting, request_id, at, _served(done))
    return request_id if log.add(record) else ""


def planned(prompt: Prompt, report: BlendReport, waiting: Set[bytes]) -> RequestRecord:
    """The record of a prompt that was looked up and not blended."""
    return _record(prompt, report, np.empty(0, np.int64), waiting, "", None, NOTHING_SERVED)


def _served(done: Blended | Loaded) -> Served:
    report = done.report
    extent, first, end = Extent.PROMPT, 0, len(done.prompt.token_ids) - 1
    if isinstance(done, Loaded):
        first, end = done.sent.first, done.sent.end
        extent = Extent.EXACT if end > first else Extent.NOTHING
    tiers: Counter[Tier] = Counter()
    for (_, tier), count in report.tokens_stored.items():
        tiers[tier] += count
    return Served(
        extent,
        first,
        end,
        {kind: getattr(report, f"tokens_{kind}") for kind in _KINDS},
        tiers,
        report.fetched_bytes,
        dict(report.seconds),
        report.saved_seconds,
        report.observed_deviation,
    )


def _record(
    prompt: Prompt,
    report: BlendReport,
    recomputed: Indices,
    waiting: Set[bytes],
    request_id: str,
    at: float | None,
    served: Served,
) -> RequestRecord:
    tokens = prompt.token_ids.copy()
    return RequestRecord(
        request_id,
        at,
        tokens,
        len(prompt.prefix),
        report.options,
        report.decision,
        tuple(_chunks(tokens, report.chunks, recomputed, waiting)),
        recomputed.copy(),
        served,
    )


def _chunks(
    tokens: TokenIds, outcomes: Sequence[ChunkOutcome], recomputed: Indices, waiting: Set[bytes]
) -> list[ChunkRecord]:
    found = []
    for outcome in outcomes:
        ref, stored = outcome.ref, outcome.found
        first, last = np.searchsorted(recomputed, (ref.begin, ref.end))
        found.append(
            ChunkRecord(
                replace(ref, token_ids=tokens[ref.begin : ref.end]),
                outcome.miss_reason,
                outcome.kept_out if stored is None else stored.context,
                None if stored is None else (stored.info, outcome.source_begin),
                int(last - first),
                stored is None and ref.chunk_key in waiting,
                outcome.fetched_bytes,
                outcome.tier,
            )
        )
    return found
