"""What the index in Redis keeps of an object, a profile, a gate or audits, as arguments of its scripts and back."""

import logging
import re
import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from kvquilt_cache_node.eviction.quotas import DEFAULT_NAMESPACE, Quotas
from kvquilt_cache_node.store.redis_scripts import REPAIR, Argument
from kvquilt_cache_node.store.rows import info_of, kind_of, row_of
from kvquilt_cache_node.types import Namespaces
from kvquilt_codec.catalog import ChunkMatch, FileInfo, FileMeta, GateMeta, Meta, ObjectInfo, ObjectMeta, ProfileInfo
from kvquilt_codec.errors import BadRequestError, IntegrityError
from kvquilt_codec.fingerprints import unpack
from kvquilt_codec.identity import DIGEST_BYTES
from kvquilt_codec.traces import DEPARTURES, ChunkPlace, Departed

log = logging.getLogger(__name__)

log = logging.getLogger(__name__)

_PRINT = struct.Struct(">HH")
"""Offset and tokens of a fingerprint: big-endian, so that their order is that of the bytes."""

_MALFORMED = (ValueError, TypeError, IndexError, AttributeError, struct.error, msgspec.MsgspecError, BadRequestError)


def arguments_of(key: bytes, meta: Meta, size: int, *, adopted: bool) -> list[Argument]:
    """What `commit.lua` takes after key and owner."""
    row = row_of(key, meta, size, 0.0)
    _, namespace, model, tokens, variant, form, seconds, chunk, context, prefix, sources, intra = row[:12]
    fields: list[Argument] = [kind_of(meta), namespace, model, tokens, variant, form, repr(seconds), chunk, context]
    fields += [prefix, sources, repr(intra), size]
    if not isinstance(meta, ObjectMeta):
        return [*fields, "", "0", "", 0]
    if (lifetime := meta.lifetime) is None:
        fields += ["", "0", ""]
    else:
        fields += [repr(lifetime.seconds), int(lifetime.renewed), repr(lifetime.until) if adopted else ""]
    prints = [digest + _PRINT.pack(offset, meta.tokens) for offset, digest in unpack(meta.fingerprints, meta.tokens)]
    return [*fields, len(prints), *prints, *meta.document_ids]


def scope_of(namespaces: Namespaces) -> str:
    """Namespaces as scripts take them: their names, each between spaces; empty: everybody's."""
    return "" if namespaces is None else f" {' '.join(namespaces)} "


def quotas_of(quotas: Quotas | None) -> str:
    """Quotas as `reserve.lua` takes them; empty: none."""
    if quotas is None:
        return ""
    named = {**quotas.named, DEFAULT_NAMESPACE: quotas.default}
    found = {name: (quota.floor, quota.share, -1 if quota.cap is None else quota.cap) for name, quota in named.items()}
    return msgspec.json.encode(found).decode()


def info_from(answer: Sequence[Any]) -> ObjectInfo | None:
    """An object from its row as scripts return it; `None` if it is the row of something else.

    Raises:
        IntegrityError: no row of the index.
    """
    key, fields, documents, (expires, pinned) = answer
    try:
        if len(key) != DIGEST_BYTES or None in fields or not fields:
            raise ValueError("a field is missing")
        kind, namespace, model, tokens, variant, form, seconds, chunk, context, prefix, sources, *numbers = fields
        if kind != b"object":
            return None
        intra, size, created, used, uses = numbers
        row = (key, namespace.decode(), model.decode(), int(tokens), variant.decode(), form.decode(), float(seconds))
        context_of = (chunk, context, prefix, sources.decode(), float(intra))
        whole = (*row, *context_of, int(size), float(created), float(used), int(uses))
        info = info_of(whole, tuple(sorted(document.decode() for document in documents)))
        return replace(info, expires=float(expires) if expires else None, pinned=bool(pinned))
    except _MALFORMED as error:
        raise IntegrityError(f"expected a row of the index of {bytes(key).hex()[:16]}...; got {error}") from None


def infos_from(answers: Sequence[Any]) -> list[ObjectInfo]:
    """Objects from their rows. A row that is none is a miss: one damaged value must not hide the others."""
    found: list[ObjectInfo] = []
    for answer in answers:
        try:
            info = info_from(answer)
        except IntegrityError as error:
            log.warning("%s: %s", error, REPAIR)
        else:
            found += [] if info is None else [info]
    return found


def profile_from(answer: Sequence[Any]) -> tuple[ProfileInfo, float]:
    """A profile and when it was last used, from what `profiles.lua` returns.

    Raises:
        IntegrityError: no row of the index.
    """
    try:
        form, model, size, used, objects, gates, _ = answer
        return ProfileInfo(form.decode(), model.decode(), int(size), int(objects), int(gates)), float(used)
    except _MALFORMED as error:
        raise IntegrityError(f"expected a profile's row of the index; got {error}") from None


def files_of(meta: FileMeta) -> str:
    """The list of `common.lua` that a gate, or audits, are on."""
    return "gates" if isinstance(meta, GateMeta) else "audits"


def file_from(answer: Sequence[Any]) -> FileInfo:
    """A gate or audits, from what `files.lua` returns.

    Raises:
        IntegrityError: no row of the index.
    """
    try:
        model, form, size, created, key = answer
        return FileInfo(key.hex(), model.decode(), form.decode(), int(size), float(created))
    except _MALFORMED as error:
        raise IntegrityError(f"expected the row of a gate or of audits in the index; got {error}") from None


def match_from(number: int, answer: bytes) -> ChunkMatch:
    """A chunk that has the fingerprint of a number, from what `find_chunks.lua` returns.

    Raises:
        IntegrityError: no entry of the index.
    """
    try:
        offset, tokens = _PRINT.unpack(answer[DIGEST_BYTES:])
    except struct.error as error:
        raise IntegrityError(f"expected a fingerprint's entry of the index; got {error}") from None
    return ChunkMatch(number, answer[:DIGEST_BYTES], offset, tokens)


def departed_from(places: Sequence[ChunkPlace], answers: Sequence[Any]) -> dict[ChunkPlace, Departed]:
    """Departures from what `trace.lua` returns of places; one that no index writes is none."""
    found: dict[ChunkPlace, Departed] = {}
    for place, (noted, at) in zip(places, answers, strict=True):
        reason = noted.decode(errors="replace").partition(":")[0]
        if reason in DEPARTURES and at:
            found[place] = Departed(reason, float(at))
    return found


def models_from(answer: Sequence[Any]) -> frozenset[str]:
    """Fingerprints from what `trace.lua` returns of models; what is none is left out."""
    texts = (text.decode(errors="replace") for text in answer)
    return frozenset(text for text in texts if re.fullmatch("[0-9a-f]{64}", text))
