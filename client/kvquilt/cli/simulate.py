"""`kvquilt simulate`: what eviction policies would have hit on a trace."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.progress import Progress
from rich.table import Table

from kvquilt.cli.options import Json
from kvquilt.cli.output import INTERRUPTED, err, explained, out, plain, print_json, size
from kvquilt.simulator import logged, mooncake
from kvquilt.simulator.table import BELADY, Row, draw, simulate
from kvquilt.simulator.types import Trace
from kvquilt_cache_node.eviction import POLICIES
from kvquilt_codec.access_log import SUFFIX
from kvquilt_codec.errors import BadRequestError, NotFoundError
from kvquilt_rpc.version import VERSION


def command(
    traces: Annotated[
        list[str],
        typer.Argument(
            help="Mooncake's JSON lines, plain or .gz; or an access log: its folder, a .parquet file, or a pattern."
        ),
    ],
    capacity: Annotated[
        str, typer.Option("--capacity", help="Sizes like 1GiB, or shares of the trace's unique bytes like 50%.")
    ] = "1%,2%,5%,10%,20%,50%",
    policy: Annotated[
        str, typer.Option("--policy", help="Eviction policies; belady, the bound, is always among them.")
    ] = ",".join(POLICIES),
    bytes_per_token: Annotated[
        int, typer.Option("--bytes-per-token", min=1, help="What a token of a Mooncake trace takes.")
    ] = mooncake.BYTES_PER_TOKEN,
    output: Annotated[Path | None, typer.Option("--output", help="Write the rows to this JSON file.")] = None,
    chart: Annotated[
        Path | None, typer.Option("--chart", help="Draw hit rates into this PNG; needs matplotlib.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what eviction policies would have hit on a trace of requests, at several capacities.

    Runs the policies that stores run (`node.eviction`). Ctrl-C ends it with what is known.
    """
    with explained(as_json):
        names = [name.strip() for name in policy.split(",")]
        if unknown := [name for name in names if name not in (*POLICIES, BELADY)]:
            raise BadRequestError(f"expected policies among {', '.join((*POLICIES, BELADY))}; got {unknown[0]!r}")
        rows: list[Row] = []
        interrupted = False
        try:
            for name in traces:
                trace = _read(name, bytes_per_token)
                _run(trace, _capacities(capacity, trace.unique_bytes), names, rows, as_json)
        except KeyboardInterrupt:
            interrupted = True
        if rows and not as_json:
            _print(rows)
        if output is not None:
            _write(output, rows, bytes_per_token)
        if chart is not None and rows:
            draw(rows, chart)
        if interrupted:
            err.print("interrupted; what is above was finished")
            raise typer.Exit(INTERRUPTED)


def _read(name: str, bytes_per_token: int) -> Trace:
    path = Path(name)
    if path.is_dir():
        trace = _logged(sorted(path.glob(f"*{SUFFIX}")), name)
    elif not path.is_file() and any(sign in name for sign in "*?["):
        trace = _logged(sorted(path.parent.glob(path.name)), name)
    elif not path.is_file():
        raise NotFoundError(f"expected a trace; {name!r} is no file")
    elif path.suffix == SUFFIX:
        trace = _logged([path], path.name)
    else:
        trace = mooncake.read(path, bytes_per_token)
    if not trace.accesses:
        raise BadRequestError(f"expected a trace with requests that need something; {name} has none")
    return trace


def _logged(paths: list[Path], name: str) -> Trace:
    if not paths:
        raise NotFoundError(f"expected an access log; {name!r} has no file with a name in {SUFFIX}")
    return logged.read(paths, name)


def _capacities(text: str, unique_bytes: int) -> list[int]:
    """Bytes, ascending, at least 1 each."""
    found = set()
    for part in text.split(","):
        share = part.strip().removesuffix("%")
        try:
            if share != part.strip():
                found.add(int(unique_bytes * float(share) / 100))
            else:
                found.add(int(TypeAdapter(ByteSize).validate_python(share)))
        except (ValueError, OverflowError, ValidationError):
            raise BadRequestError(f"expected sizes like 1GiB or shares like 50%; got {part.strip()!r}") from None
    if min(found) <= 0:
        raise BadRequestError(f"expected capacities of at least one byte; got {text!r}")
    return sorted(found)


def _run(trace: Trace, capacities: list[int], names: list[str], rows: list[Row], as_json: bool) -> None:
    """Append to `rows`, so that what is finished stays when the user ends it."""
    with Progress(console=err, transient=True, disable=as_json) as progress:
        task = progress.add_task("", total=len(trace.requests))

        def shown(name: str, capacity: int, done: int) -> None:
            progress.update(task, description=f"{trace.name}: {name} at {size(capacity)}", completed=done)

        for row in simulate(trace, capacities, names, shown):
            rows.append(row)
            if as_json:
                print_json(row)


def _print(rows: list[Row]) -> None:
    for trace in dict.fromkeys(row.trace for row in rows):
        table = Table(title=trace, title_justify="left")
        for name in ("capacity", "policy", "found", "with prefix", "saved", "of belady"):
            table.add_column(name, no_wrap=True)
        last = 0
        for row in (row for row in rows if row.trace == trace):
            first = row.capacity_bytes != last
            last = row.capacity_bytes
            capacity = f"{size(last)} ({row.capacity_share:.1%})" if first else ""
            bound = "" if row.vs_belady is None else f"{row.vs_belady:.1%}"
            rates = (f"{rate:.2%}" for rate in (row.hit_rate, row.prefix_hit_rate, row.saved_share))
            table.add_row(capacity, row.policy, *rates, bound)
        out.print(table)


def _write(path: Path, rows: list[Row], bytes_per_token: int) -> None:
    conditions = {
        "block_tokens": mooncake.BLOCK_TOKENS,
        "bytes_per_token": bytes_per_token,
        "hit_rate": "share of blocks found",
    }
    frame = {"name": "simulate", "version": VERSION, "conditions": conditions, "rows": plain(rows)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(frame)) + b"\n")
