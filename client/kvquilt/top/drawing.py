"""Snapshots for people: a screen of tables, or a line."""

import time
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kvquilt.cli.output import size
from kvquilt.served import Patch, ServedRequest
from kvquilt.states import NodeStatus, Queue
from kvquilt.top.sampling import KINDS, REQUESTS, Snapshot, well

BLOCKS = dict(zip(KINDS, "█▓▒░╳·", strict=True))
LETTERS = dict(zip(KINDS, "EPWBRC", strict=True))
COLOURS = dict(zip(KINDS, ("green", "blue", "yellow", "cyan", "magenta", "bright_black"), strict=True))
_BAR = 12


def printable(text: str) -> str:
    """A text from elsewhere without what a terminal would take for a command."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def cells(patches: Sequence[Patch], width: int) -> list[str]:
    """A quilt in so many cells, or one for each token if that is less: of each the kind that most of its tokens are."""
    total = sum(patch.tokens for patch in patches)
    count = min(width, total)
    ends = [(cell + 1) * total // count for cell in range(count)]
    shares: list[dict[str, int]] = [{} for _ in ends]
    cell = position = 0
    for patch in patches:
        rest = patch.tokens
        while rest:
            part = min(rest, ends[cell] - position)
            shares[cell][patch.kind] = shares[cell].get(patch.kind, 0) + part
            rest -= part
            position += part
            if position == ends[cell]:
                cell += 1
    return [max(share, key=lambda kind: share[kind]) for share in shares]


def quilt_line(patches: Sequence[Patch], width: int, *, letters: bool) -> Text:
    """A quilt as one line; letters are for terminals without blocks."""
    signs = LETTERS if letters else BLOCKS
    line = Text()
    for kind in cells(patches, width):
        line.append(signs.get(kind, "?"), style=COLOURS.get(kind, ""))
    return line


def screen(snapshot: Snapshot, width: int, *, letters: bool, live: bool = True) -> RenderableType:
    """All that a snapshot has; `live` says that another will follow."""
    if snapshot.error:
        return Group(_title(snapshot), Text(printable(snapshot.error)), Text("Trying again; q ends this.", style="dim"))
    parts: list[RenderableType] = [_title(snapshot), _saved(snapshot), _tokens(snapshot)]
    if read := _read(snapshot):
        parts.append(read)
    parts.append(_nodes(snapshot.nodes))
    if snapshot.queues:
        parts.append(Text("queues  " + "   ".join(map(_queue, snapshot.queues))))
    parts += [_requests(snapshot.slowest, width, letters=letters), _legend(letters=letters)]
    if live:
        parts.append(Text("q ends this; kvquilt why ID explains a request", style="dim"))
    return Group(*parts)


def line(snapshot: Snapshot) -> str:
    """A snapshot in one line, for a log."""
    at = time.strftime("%H:%M:%S", time.localtime(snapshot.unix_seconds))
    if snapshot.error:
        return f"{at} {snapshot.router} does not answer: {printable(snapshot.error)}"
    tokens = snapshot.tokens or {}
    kinds = ", ".join(f"{count} {kind}" for kind, count in tokens.items())
    read = ", ".join(f"{count} {tier}" for tier, count in (snapshot.tiers or {}).items() if count) or "nothing"
    known = f"tokens: {kinds}; read from: {read}"
    nodes = f"{sum(map(well, snapshot.nodes))}/{len(snapshot.nodes)} nodes"
    return f"{at} {_health(snapshot)}; {nodes}; {snapshot.blends} requests; {known}; {_speed(snapshot)}"


def _title(snapshot: Snapshot) -> Text:
    title = Text("kvquilt top ", style="bold")
    title.append(printable(snapshot.router))
    title.append(f"  {snapshot.version}  " if snapshot.version else "  ")
    title.append(time.strftime("%H:%M:%S  ", time.localtime(snapshot.unix_seconds)))
    good = snapshot.healthy and not snapshot.error
    return title.append(_health(snapshot), style="green" if good else "bold red")


def _health(snapshot: Snapshot) -> str:
    if snapshot.error:
        return "DOES NOT ANSWER"
    if snapshot.healthy:
        return "healthy"
    if not any(node.reachable for node in snapshot.nodes):
        return "NO NODE ANSWERS: everything is computed"
    return f"{sum(not well(node) for node in snapshot.nodes)} OF {len(snapshot.nodes)} NODES NOT WELL"


def _speed(snapshot: Snapshot) -> str:
    if snapshot.tokens_per_second is None or snapshot.saved_seconds_per_minute is None:
        return f"{snapshot.saved_seconds:.2f} s saved"
    return (
        f"{snapshot.tokens_per_second:.0f} tokens/s; {snapshot.saved_seconds:.2f} s saved, "
        f"{snapshot.saved_seconds_per_minute:.2f} s a minute"
    )


def _saved(snapshot: Snapshot) -> Text:
    return Text(f"{snapshot.blends} requests; {_speed(snapshot)}")


def _bar(share: float) -> str:
    full = round(_BAR * min(1.0, max(0.0, share)))
    return "#" * full + "." * (_BAR - full)


def _tokens(snapshot: Snapshot) -> Table:
    return _counts("tokens since start", snapshot.tokens or {}, snapshot.recent or {})


def _read(snapshot: Snapshot) -> Table | None:
    """Where stored KV was read; tiers from which nothing was are left out."""
    since = {tier: count for tier, count in (snapshot.tiers or {}).items() if count}
    recent = {tier: count for tier, count in (snapshot.recent_tiers or {}).items() if count}
    return _counts("of them read from", since, recent) if since or recent else None


def _counts(title: str, counted: Mapping[str, int], latest: Mapping[str, int]) -> Table:
    """Sums since the start with their shares, and beside them those of the latest requests."""
    table = Table(box=None, pad_edge=False)
    table.add_column(title)
    table.add_column("", justify="right")
    table.add_column("")
    table.add_column(f"of the latest {REQUESTS} requests")
    table.add_column("", justify="right")
    since = list(counted.items())
    total = sum(count for _, count in since) or 1
    recent = [(printable(name), count) for name, count in latest.items()]
    for number in range(max(len(since), len(recent))):
        row = ["", "", "", "", ""]
        if number < len(since):
            kind, count = since[number]
            row[:3] = [kind, str(count), f"{_bar(count / total)} {count / total:4.0%}"]
        if number < len(recent):
            row[3:] = [recent[number][0], str(recent[number][1])]
        table.add_row(*row)
    return table


def _nodes(nodes: Sequence[NodeStatus]) -> Table:
    table = Table("node", "state", "breaker", "answers in", "tiers", box=None, pad_edge=False)
    for node in nodes:
        state = "answers" if node.reachable else "DOES NOT ANSWER"
        state = state if node.serving or not node.reachable else "drains"
        trip = "" if node.round_trip_seconds is None else f"{node.round_trip_seconds * 1000:.1f} ms"
        tiers = "\n".join(
            f"{printable(tier.name)} {_bar(tier.used_bytes / max(1, tier.capacity_bytes))} "
            f"{size(tier.used_bytes)} of {size(tier.capacity_bytes)}"
            for tier in node.tiers
        )
        words = (printable(node.target), state, node.breaker.replace("_", " "), trip, tiers)
        table.add_row(*(Text(word) for word in words), style="" if well(node) else "red")
    return table


def _queue(queue: Queue) -> str:
    if queue.name == "saves":
        return f"saves {size(queue.length)} of {size(queue.limit)}"
    return f"{printable(queue.name)} {queue.length} of {queue.limit}"


def _requests(requests: Sequence[ServedRequest], width: int, *, letters: bool) -> Table:
    table = Table("slowest", "tokens", "time", "saved", "quilt", box=None, pad_edge=False)
    for request in requests:
        saved = "" if request.saved_seconds is None else f"{request.saved_seconds:.2f} s"
        line = quilt_line(request.patches, max(10, width - 42), letters=letters)
        name = printable(request.request_id[:8])
        table.add_row(name, str(request.prompt_tokens), f"{request.seconds['total']:.3f} s", saved, line)
    return table


def _legend(*, letters: bool) -> Text:
    legend = Text()
    for kind in KINDS:
        legend.append((LETTERS if letters else BLOCKS)[kind], style=COLOURS[kind]).append(f" {kind}   ")
    return legend
