"""Snapshots for people: a screen of tables, or a line."""

import time
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from kvquilt.cli.output import size
from kvquilt.served import Patch, ServedRequest
from kvquilt.states import NodeStatus, Queue
from kvquilt.top.sampling import KINDS, REQUESTS, Snapshot, well

BLOCKS = dict(zip(KINDS, "█▓▒░╳·", strict=True))
LETTERS = dict(zip(KINDS, "EPWBRC", strict=True))
COLOURS = dict(zip(KINDS, ("green", "blue", "yellow", "cyan", "magenta", "bright_black"), strict=True))
_BAR = 12
_NARROW = 76
"""Columns below which what stands side by side stands one below the other."""


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
    narrow = width < _NARROW
    parts: list[RenderableType] = [_title(snapshot), _saved(snapshot)]
    for both in _counts(snapshot):
        parts += both if narrow else [_beside(*both)]
    parts += [_node_lines(node) for node in snapshot.nodes] if narrow else [_nodes(snapshot.nodes, width)]
    if snapshot.queues:
        parts.append(Text("\n".join(_packed("queues  ", list(map(_queue, snapshot.queues)), width))))
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


def _bar(share: float, length: int = _BAR) -> str:
    full = round(length * min(1.0, max(0.0, share)))
    return "#" * full + "." * (length - full)


def _counts(snapshot: Snapshot) -> Iterator[tuple[Table, Table]]:
    """Tokens by kind, and by the tier that stored ones were read from: since the start, and of the latest requests."""
    yield _since("tokens since start", snapshot.tokens or {}), _recent(snapshot.recent or {})
    since, recent = _some(snapshot.tiers), _some(snapshot.recent_tiers)
    if since or recent:
        yield _since("of them read from", since), _recent(recent)


def _some(counted: Mapping[str, int] | None) -> dict[str, int]:
    return {name: count for name, count in (counted or {}).items() if count}


def _since(title: str, counted: Mapping[str, int]) -> Table:
    table = Table(title, Column("", justify="right"), "", box=None, pad_edge=False)
    total = sum(counted.values()) or 1
    for name, count in counted.items():
        table.add_row(printable(name), str(count), f"{_bar(count / total)} {count / total:4.0%}")
    return table


def _recent(counted: Mapping[str, int]) -> Table:
    table = Table(f"of the latest {REQUESTS} requests", Column("", justify="right"), box=None, pad_edge=False)
    for name, count in counted.items():
        table.add_row(printable(name), str(count))
    return table


def _beside(left: Table, right: Table) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_row(left, right)
    return grid


def _state(node: NodeStatus) -> tuple[str, str, str, str]:
    """Its address, whether it answers, its breaker, and how soon it answered last."""
    state = "answers" if node.reachable else "DOES NOT ANSWER"
    state = state if node.serving or not node.reachable else "drains"
    trip = "" if node.round_trip_seconds is None else f"{node.round_trip_seconds * 1000:.1f} ms"
    return printable(node.target), state, node.breaker.replace("_", " "), trip


def _tiers(node: NodeStatus, length: int) -> list[str]:
    return [
        f"{printable(tier.name)} {_bar(tier.used_bytes / max(1, tier.capacity_bytes), length)} "
        f"{size(tier.used_bytes)} of {size(tier.capacity_bytes)}"
        for tier in node.tiers
    ]


def _nodes(nodes: Sequence[NodeStatus], width: int) -> Table:
    table = Table("node", "state", "breaker", "answers in", "tiers", box=None, pad_edge=False)
    for node in nodes:
        words = (*_state(node), "\n".join(_tiers(node, _BAR if width > 90 else _BAR // 2)))
        table.add_row(*(Text(word) for word in words), style="" if well(node) else "red")
    return table


def _node_lines(node: NodeStatus) -> Text:
    target, state, breaker, trip = _state(node)
    lines = ["node " + target, f"  {state}, breaker {breaker}" + (f", answered in {trip}" if trip else "")]
    return Text("\n".join([*lines, *(f"  {tier}" for tier in _tiers(node, _BAR // 2))]), "" if well(node) else "red")


def _packed(head: str, items: Sequence[str], width: int) -> list[str]:
    """Items behind a head, in as many lines as they need; none is broken."""
    lines = [head]
    for item in items:
        gap = "" if lines[-1] in (head, " " * len(head)) else "   "
        if gap and len(lines[-1] + gap + item) > width:
            lines.append(" " * len(head) + item)
        else:
            lines[-1] += gap + item
    return lines


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
        legend.append((LETTERS if letters else BLOCKS)[kind], style=COLOURS[kind]).append(f" {kind}  ")
    return legend
