"""A record of the log as a line, without secrets."""

import logging
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

import msgspec

from kvquilt_codec.errors import KvquiltError
from kvquilt_rpc import requests, spans
from kvquilt_rpc.logs.redaction import redact

MAX_MESSAGE = 4096
MAX_TRACE = 16384
OBJECT_DIGITS = 16
"""Characters of a message and of a stack trace; digits of an object's key that a line names it by."""

Line = Callable[[logging.LogRecord, int], str]
"""From a record, and how many like it were dropped, to a line without its end."""


def as_json(record: logging.LogRecord, dropped: int = 0) -> str:
    """One JSON object. Names of its fields are in docs/observing.md; those that say nothing are left out."""
    moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    fields: dict[str, object] = {
        "time": moment,
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": message(record),
        **known(record),
        "dropped": dropped,
        "error": _error(record),
    }
    return msgspec.json.encode({name: value for name, value in fields.items() if value}).decode()


def as_text(record: logging.LogRecord, dropped: int = 0) -> str:
    """A line for people, and the stack trace of an error below it."""
    moment = datetime.fromtimestamp(record.created).isoformat(" ", timespec="milliseconds")
    line = f"{moment} {record.levelname} {record.name}: {_printable(message(record))}"
    names = [f"{name}={_printable(str(value))}" for name, value in known(record).items()]
    if dropped:
        names.append(f"dropped={dropped}")
    if names:
        line += f" [{' '.join(names)}]"
    error = _error(record)
    return line if error is None else f"{line}\n{error['trace'].rstrip()}"


def known(record: logging.LogRecord) -> dict[str, str]:
    """What a line is about: the request, whose it is, its trace, the object."""
    request = requests.current()
    found = {"request_id": request.request_id, "namespace": request.namespace, "model": request.model}
    if (ids := spans.identity()) is not None:
        found["trace_id"], found["span_id"] = ids
    key = getattr(record, "key", "")
    if isinstance(key, str) and key:
        found["object"] = redact(key[:OBJECT_DIGITS])
    return {name: value for name, value in found.items() if value}


def message(record: logging.LogRecord) -> str:
    """A record's message without secrets, cut if it is very long."""
    # Searching takes time: what is shown is searched, and some beyond it, since half a secret is not recognised.
    return _cut(redact(record.getMessage()[: 2 * MAX_MESSAGE]), MAX_MESSAGE)


def _error(record: logging.LogRecord) -> dict[str, str] | None:
    kind, error, _ = record.exc_info or (None, None, None)
    if kind is None or error is None:
        return None
    trace = "".join(traceback.format_exception(error))[-2 * MAX_TRACE :]
    reason = error.reason if isinstance(error, KvquiltError) else ""
    return {"type": kind.__name__, "reason": reason, "trace": _cut(redact(trace), MAX_TRACE, "end")}


def _cut(text: str, most: int, keep: Literal["begin", "end"] = "begin") -> str:
    if len(text) <= most:
        return text
    return f"{text[:most]}..." if keep == "begin" else f"...{text[-most:]}"


def _printable(text: str) -> str:
    """Without what would begin a line of its own, or speak to a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
