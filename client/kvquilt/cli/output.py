"""What commands print: for people with rich, for machines as JSON; and what their exit codes mean."""

import contextlib
import dataclasses
import enum
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from kvquilt_codec import errors
from kvquilt_codec.tiers import Tier

out = Console(highlight=False, soft_wrap=True)
"""Results."""
err = Console(stderr=True, highlight=False, soft_wrap=True)
"""Progress and errors."""

EXIT_CODES: tuple[tuple[type[errors.KvquiltError], int], ...] = (
    (errors.BadRequestError, 2),
    (errors.UnsupportedModelError, 2),
    (errors.NotFoundError, 3),
    (errors.IntegrityError, 4),
    (errors.FingerprintMismatchError, 4),
    (errors.UnavailableError, 5),
    (errors.DeadlineError, 5),
    (errors.CapacityError, 6),
    (errors.UnauthenticatedError, 8),
    (errors.PermissionDeniedError, 8),
    (errors.KvquiltError, 1),
)
_OF_MODELS = ("torch", "transformers", "accelerate")
PARTIAL = 7
"""Something was done, something was not."""
INTERRUPTED = 130


def plain(value: Any) -> Any:
    """A result as JSON types: dataclasses as objects, enums by value, bytes as hex."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def print_json(value: Any) -> None:
    """One line of JSON on standard output."""
    out.print(msgspec.json.encode(plain(value)).decode(), markup=False)
    out.file.flush()


def print_table(title: str, rows: Mapping[str, object]) -> None:
    """Names and values."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")  # digests are copied: none may be cut
    for name, value in rows.items():
        table.add_row(name, str(value))
    out.print(table)


def tiers(tokens: Mapping[str, int]) -> str:
    """Where stored KV was read: tokens by tier, the fastest first."""
    order = {tier.value: place for place, tier in enumerate(Tier)}
    named = sorted(tokens.items(), key=lambda item: order.get(item[0], len(order)))
    return ", ".join(f"{count} {name}" for name, count in named)


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def exit_code(error: errors.KvquiltError) -> int:
    """What a command ends with that an error has ended."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))


@contextlib.contextmanager
def explained(as_json: bool) -> Iterator[None]:
    """Turn errors of our tree into a message and an exit code; let everything else be seen whole."""
    try:
        yield
    except errors.KvquiltError as error:
        raise _said(error, as_json) from None
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _OF_MODELS:
            raise
        missing = errors.BadRequestError(
            f"expected the package {error.name} for a command that runs a model; it is not installed: "
            "pip install 'kvquilt[model]', or call it where a router runs"
        )
        raise _said(missing, as_json) from None
    except KeyboardInterrupt:
        err.print("interrupted; what was stored stays stored")
        raise typer.Exit(INTERRUPTED) from None


def _said(error: errors.KvquiltError, as_json: bool) -> typer.Exit:
    """Tell an error; how the command ends then."""
    if as_json:
        message = {"error": {"reason": error.reason, "message": str(error)}}
        err.print(msgspec.json.encode(message).decode(), markup=False)
    else:
        err.print(f"[bold red]{type(error).__name__}[/] ({error.reason}): ", end="")
        err.print(str(error), markup=False)
    return typer.Exit(exit_code(error))
