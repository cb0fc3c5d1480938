"""Which short chunks are computed in one forward pass: those with the same context (Prepacking, arXiv 2404.09529)."""

from collections import defaultdict
from collections.abc import Iterable

from kvquilt_codec.identity import context_digest
from kvquilt_router.computing import VariantJob
from kvquilt_router.engine.packing import pack

PACKED_TOKENS = 96
"""Longer chunks gain nothing (measured on a CPU: 16 chunks of 32 tokens take 0.74 of the time, 8 of 64 take 0.92)."""
PASS_TOKENS = 512


def packs(jobs: Iterable[VariantJob]) -> dict[int, tuple[VariantJob, ...]]:
    """By `id` of a job the jobs that share its pass, itself among them; chunks of the shared prefix are left out."""
    groups: defaultdict[bytes, list[VariantJob]] = defaultdict(list)
    for job in jobs:
        if job.ref.segment and len(job.ref.token_ids) <= PACKED_TOKENS:
            groups[context_digest(job.prefix) + context_digest(job.context)].append(job)
    shared: dict[int, tuple[VariantJob, ...]] = {}
    for group in groups.values():
        for members in pack([len(job.ref.token_ids) for job in group], PASS_TOKENS):
            together = tuple(group[index] for index in members)
            shared |= {id(job): together for job in together if len(together) > 1}
    return shared
