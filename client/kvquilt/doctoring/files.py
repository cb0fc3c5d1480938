"""Files that the settings name: there, readable, and nobody else's to read or write."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from kvquilt.checks import Finding, SkippedError, judged, promise
from kvquilt.doctoring.types import Part, Patient

_FOLDERS = ("node.path", "node.hot_path", "router.access_log")
_SECRETS = ("tls_key", "token_file", "redis_key", "encryption_key_file")
_PEM = b"-----BEGIN"


def named_files(patient: Patient) -> Iterator[tuple[str, Path]]:
    """Every file and folder that settings of this machine's parts name, by the setting."""
    if Part.NODE in patient.parts:
        yield from _paths(patient.node, "node.")
    if Part.ROUTER in patient.parts:
        yield from _paths(patient.router, "router.")
        for name in ("profile", "gate"):
            value = getattr(patient.router, name)
            if "/" in value or value.endswith((".safetensors", ".json")):
                yield f"router.{name}", Path(value)
    if Part.CLIENT in patient.parts:
        yield from _paths(patient.credentials, "client.credentials.")


def _paths(settings: BaseModel, prefix: str) -> Iterator[tuple[str, Path]]:
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield from _paths(value, f"{prefix}{name}.")
        elif isinstance(value, Path):
            yield f"{prefix}{name}", value


async def files(patient: Patient) -> Finding:
    """Files that the settings name can be read, folders written."""
    wrong, seen = [], 0
    for name, path in named_files(patient):
        if name == "node.path" and patient.node.store == "memory":
            continue
        seen += 1
        if name in _FOLDERS:
            problem = _unwritable(path)
        else:
            problem = "" if path.is_file() and os.access(path, os.R_OK) else "cannot be read, or is none"
        if problem:
            wrong.append(f"{name}: {path} {problem}")
    if not seen:
        raise SkippedError("no setting names one")
    advice = "create it, or let the user that kvquilt runs as have it"
    return judged(not wrong, promise(files), "; ".join(wrong) or f"{seen} of them", advice)


def _unwritable(folder: Path) -> str:
    there = next(one for one in (folder, *folder.parents) if one.exists())
    if not there.is_dir():
        return f"cannot be made: {there} is no folder"
    return "" if os.access(there, os.W_OK | os.X_OK) else f"cannot be written ({there} may not be)"


async def secrets(patient: Patient) -> Finding:
    """Files with secrets are not for everybody on this machine."""
    found = [(name, path) for name, path in named_files(patient) if _is_secret(name, path)]
    if patient.config is not None and patient.secret_settings:
        found.append((", ".join(patient.secret_settings), patient.config))
    if not found:
        raise SkippedError("no file has one")
    wrong = [f"{path} ({name}): {problem}" for name, path in found if (problem := _exposed(path))]
    advice = "chmod 600 FILE, and change the secret if others were on this machine"
    return judged(not wrong, promise(secrets), "; ".join(wrong) or f"{len(found)} of them are not", advice)


def _is_secret(name: str, path: Path) -> bool:
    if not path.is_file():
        return False
    if name.endswith("token_key"):  # public keys, or a secret that signs as well
        return not _begins_with_pem(path)
    return name.endswith(_SECRETS)


def _begins_with_pem(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_PEM)) == _PEM
    except OSError:
        return False


def _exposed(path: Path) -> str:
    mode = path.stat().st_mode
    if mode & stat.S_IROTH:
        return f"mode {stat.S_IMODE(mode):04o} lets everybody read it"
    if mode & (stat.S_IWOTH | stat.S_IWGRP):
        return f"mode {stat.S_IMODE(mode):04o} lets others write it"
    folder = path.resolve().parent.stat().st_mode
    if folder & stat.S_IWOTH and not folder & stat.S_ISVTX:
        return f"everybody may replace it: its folder has mode {stat.S_IMODE(folder):04o}"
    return ""
