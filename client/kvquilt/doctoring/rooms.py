"""Whether what parts may hold fits into what this machine has: volumes and memory."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kvquilt.checks import Finding, Outcome, SkippedError, promise
from kvquilt.doctoring.types import Part, Patient
from kvquilt_cache_node.settings import NodeSettings

MIB = 1 << 20
_INDEX_SHARE = 0.02
"""Of a store's cap, for its index in SQLite: some KiB an object, objects of a few hundred KiB."""
_INDEX_LEAST = 64 * MIB
_TIGHT = 0.95
_NODE_ITSELF, _ROUTER_ITSELF = 256 * MIB, 512 * MIB
"""What processes take beside what their settings cap, a router's model not counted."""
_CGROUPS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that something on a volume may take: its folder, and what for."""

    folder: Path
    nbytes: int
    what: str


def needs(node: NodeSettings) -> Iterator[Need]:
    """What a node may write to volumes of its machine."""
    if node.store == "file":
        yield Need(node.path, int(node.capacity), "node.capacity")
    if node.index == "sqlite" and node.store != "memory":
        nbytes = max(_INDEX_LEAST, int(node.capacity * _INDEX_SHARE))
        yield Need(node.path, nbytes, "the index (estimated)")
    if node.hot_store == "file":
        yield Need(node.hot_folder, int(node.hot_capacity), "node.hot_capacity")
    if node.write_mode == "back":
        yield Need(node.path, int(node.queue_bytes), "node.queue_bytes")


async def volumes(patient: Patient) -> Finding:
    """What the node may write fits on its volumes."""
    by_device: dict[int, list[Need]] = {}
    for need in needs(patient.node) if Part.NODE in patient.parts else ():
        by_device.setdefault(_there(need.folder).stat().st_dev, []).append(need)
    if not by_device:
        raise SkippedError("the node writes nothing to a volume of this machine")
    wrong: list[str] = []
    tight: list[str] = []
    good: list[str] = []
    for found in by_device.values():
        room = _room({need.folder for need in found})
        wanted = sum(need.nbytes for need in found)
        told = f"{found[0].folder}: {' + '.join(f'{n.what} {_size(n.nbytes)}' for n in found)} of {_size(room)}"
        (wrong if wanted > room else tight if wanted > room * _TIGHT else good).append(told)
    outcome = Outcome.FAILED if wrong else Outcome.WARNED if tight else Outcome.PASSED
    advice = "lower the caps, or give a larger volume: a full disk refuses puts (disk_full)" if wrong or tight else ""
    return Finding(outcome, promise(volumes), "; ".join([*wrong, *tight, *good]), advice)


def _there(folder: Path) -> Path:
    return next(one for one in (folder, *folder.parents) if one.exists())


def _room(folders: set[Path]) -> int:
    """Bytes that are free for us on the volume of some folders, and what they hold already."""
    top = [folder for folder in folders if not any(other in folder.parents for other in folders)]
    held = sum(os.lstat(file).st_blocks * 512 for folder in top if folder.is_dir() for file in _files(folder))
    found = os.statvfs(_there(top[0]))
    return found.f_bavail * found.f_frsize + held


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if path.exists():  # a node may be at work
                yield path


async def memory(patient: Patient) -> Finding:
    """What parts may keep in memory fits into this machine's, or the container's."""
    wanted = dict(_memory(patient))
    if not wanted:
        raise SkippedError("neither a node nor a router is of this machine", "--part node, --part router")
    room, what = memory_room()
    total = sum(wanted.values())
    got = f"{' + '.join(f'{name} {_size(nbytes)}' for name, nbytes in wanted.items())} of {_size(room)} ({what})"
    outcome = Outcome.FAILED if total > room else Outcome.WARNED if total > room * _TIGHT else Outcome.PASSED
    advice = "lower the caps, or raise the limit: beyond it the process is killed" if total > room * _TIGHT else ""
    return Finding(outcome, promise(memory), got, advice)


def _memory(patient: Patient) -> Iterator[tuple[str, int]]:
    node, router = patient.node, patient.router
    if Part.NODE in patient.parts:
        yield "a node itself (estimated)", _NODE_ITSELF
        if node.store == "memory":
            yield "node.capacity", int(node.capacity)
        if node.memory_tier:
            yield "node.memory_bytes", node.memory_tier
        if node.hot_store == "memory":
            yield "node.hot_capacity", int(node.hot_capacity)
    if Part.ROUTER in patient.parts:
        yield "a router itself, without its model (estimated)", _ROUTER_ITSELF
        for name in ("anchor_bytes", "save_bytes", "held_bytes", "requests_bytes"):
            if nbytes := int(getattr(router, name)):
                yield f"router.{name}", nbytes


def memory_room() -> tuple[int, str]:
    """Bytes that this process may have, and what limits it."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUPS:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < there:
            return int(text), f"the limit of the control group, {path}"
    return there, "this machine's memory"


def _size(nbytes: float) -> str:
    return f"{nbytes / (1 << 30):.2f} GiB" if nbytes >= 1 << 30 else f"{nbytes / MIB:.0f} MiB"
