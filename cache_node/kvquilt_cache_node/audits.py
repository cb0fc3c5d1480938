"""What audits found of gates, as a node keeps it: states that routers send, merged, each stored anew by its digest.

No state is ever changed in place: a merged one is stored first, and those that it contains are deleted then. So a node
that dies in between loses nothing, and nodes that share a store may do this at the same time: what is there twice is
merged by the next call.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from kvquilt_cache_node.types import Store
from kvquilt_codec.catalog import AuditsMeta, FileInfo
from kvquilt_codec.errors import IntegrityError, KvquiltError, NotFoundError
from kvquilt_codec.gate import audits_file as file
from kvquilt_codec.gate.audits import GateAudits
from kvquilt_rpc.counters import Counters

log = logging.getLogger(__name__)

_TRIES = 4
"""Looks at the list of files, while other nodes replace some."""
NOT_ALLOWED = "expected a caller of all namespaces, whose audits count for everybody; this one may read them only"


@dataclass(frozen=True, slots=True)
class MergedAudits:
    """What is known of a gate's audits.

    Attributes:
        state: all of it.
        unstored_reason: why the node does not keep all of it; empty: it does.
        damaged: files of this model and profile that could not be read any more.
    """

    state: GateAudits
    unstored_reason: str
    damaged: int


@dataclass(slots=True)
class _Found:
    states: dict[bytes, GateAudits] = field(default_factory=dict)
    gone: list[FileInfo] = field(default_factory=list)
    damaged: int = 0


class Audits:
    """Merges, stores and gives what audits found."""

    def __init__(self, store: Store, counters: Counters) -> None:
        self._store = store
        self._counters = counters
        self._one = asyncio.Lock()  # of two at once, the second finds what the first stored

    async def merge(self, given: GateAudits, *, may_write: bool) -> MergedAudits:
        """What this node and the caller know of a gate; stored, if the caller may and the node can.

        Raises:
            UnavailableError: the store cannot be read.
        """
        meta = AuditsMeta(given.model_fingerprint, given.profile_digest)
        async with self._one:
            found = await self._read(meta)
            known = {key: state for key, state in found.states.items() if state.gate == given.gate}
            merged = given.with_points({})
            for state in known.values():
                merged = merged.merged(state)
            reason = ""
            if (whole := merged.merged(given)) != merged and not may_write:
                reason = NOT_ALLOWED
            elif whole != merged or len(known) > 1:
                reason = await self._replace(known, whole, meta)
            await self._store.touch(list(known))
        self._counters.add("audits_sent")
        return MergedAudits(whole, reason, found.damaged)

    async def _replace(self, known: dict[bytes, GateAudits], whole: GateAudits, meta: AuditsMeta) -> str:
        """Store a state, and delete those that it contains; why it cannot be stored, or nothing."""
        data = await asyncio.to_thread(file.dump, whole)
        key = bytes.fromhex(file.digest(data))
        try:
            self._counters.add("audits_stored", int(await self._store.put_if_absent(key, data, meta)))
            await self._store.forget([old for old in known if old != key], [])
        except KvquiltError as error:
            log.warning("what audits found of a gate is not stored: %s", error)
            return f"expected room for what audits found of a gate; got {error}"
        return ""

    async def _read(self, meta: AuditsMeta) -> _Found:
        found = _Found()
        infos: Sequence[FileInfo] = ()
        for _ in range(_TRIES):
            infos, before = await self._store.files(meta), len(found.gone)
            for info in infos:
                await self._read_one(info, found)
            if len(found.gone) == before:
                break
        # What another node replaced is gone because something later has it all; anything else is lost.
        lost = [gone for gone in found.gone if not any(info.created > gone.created for info in infos)]
        found.damaged += len(lost)
        if found.damaged:
            self._counters.add("audits_damaged", found.damaged)
            log.error(
                "%d files of what audits found of gates of model %s... are damaged or lost: withdrawals may be, which "
                "no router knows any more",
                found.damaged,
                meta.model_fingerprint[:16],
            )
        return found

    async def _read_one(self, info: FileInfo, found: _Found) -> None:
        key = bytes.fromhex(info.digest)
        if key in found.states:
            return
        try:
            (data,) = await self._store.get(key)
            found.states[key] = await asyncio.to_thread(file.load, data, info.digest)
        except NotFoundError:
            found.gone.append(info)
        except IntegrityError as error:
            log.warning("a file of audits is deleted: %s", error)
            found.damaged += 1
            await self._store.forget([key], [])
