"""`kvquilt why`: why chunks of a request, or of a prompt, were not served from the cache."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from kvquilt.cli.advice import ADVICE
from kvquilt.cli.calls import client_settings
from kvquilt.cli.options import ConfigFile, Json, Level, MaxKl, Policy, Ratio, Router, Set
from kvquilt.cli.output import explained, out, print_json, tiers
from kvquilt.documents import read_documents
from kvquilt.explanations import ChunkExplanation, Divergence, MissReport
from kvquilt.sync import Client
from kvquilt.top.sampling import REQUESTS
from kvquilt_codec.errors import BadRequestError

_BEGINNING = re.compile("[0-9a-f]{8,31}")
_ANY_QUESTION = "?"
"""Questions are always computed, so that it does not matter which one it is."""


def why(
    request: Annotated[
        str, typer.Argument(help="Id of a request, from its report; of the latest ones its beginning does.")
    ] = "",
    doc: Annotated[
        list[Path] | None, typer.Option("--doc", help="Instead: file or folder, in prompt order. Repeatable.")
    ] = None,
    prompt: Annotated[
        Path | None, typer.Option("--prompt", help="Instead: file with a whole prompt, as it goes to the model.")
    ] = None,
    prefix_file: Annotated[
        Path | None, typer.Option(help="With --doc: text that prompts begin with. Default: the chat template.")
    ] = None,
    policy: Policy = None,
    ratio: Ratio = None,
    level: Level = None,
    max_kl: MaxKl = None,
    router: Router = None,
    flags: Set = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Explain why chunks were not served from the cache: of a request, or of documents or a prompt as of now."""
    with explained(as_json):
        settings = client_settings(config, flags, router)
        if sum((bool(request), bool(doc), prompt is not None)) != 1:
            raise BadRequestError("expected the id of a request, --doc or --prompt: one of the three")
        about: dict[str, Any] = {}
        if not request:
            about = {"policy": policy, "recompute_ratio": ratio, "level": level, "max_kl": max_kl}
        if doc:
            about["segments"] = [*(document.content for document in read_documents(doc)), _ANY_QUESTION]
            about["shared_prefix"] = None if prefix_file is None else prefix_file.read_text(encoding="utf-8")
        elif prompt is not None:
            (document,) = read_documents([prompt])
            about["plain"] = document.content
        with Client(settings.router, settings.credentials) as client:
            report = client.why(_whole(client, request, settings.deadline), deadline=settings.deadline, **about)
        if as_json:
            print_json(report)
        else:
            _show(report)


def _whole(client: Client, request: str, deadline: float) -> str:
    """The id that a beginning of one stands for, as `kvquilt top` shows it; else what was given."""
    if not _BEGINNING.fullmatch(request):
        return request
    latest = client.requests(limit=REQUESTS, deadline=deadline)
    found = [served.request_id for served in latest if served.request_id.startswith(request)]
    return found[0] if len(found) == 1 else request


def _show(report: MissReport) -> None:
    when = "as of now"
    if report.request_unix_seconds is not None:
        when = f"request {report.request_id}, {ago(report.request_unix_seconds)}"
    served = {
        name: sum(chunk.end - chunk.begin for chunk in report.chunks if chunk.outcome == name)
        for name in ("exact", "blended", "recomputed", "computed")
    }
    words = ", ".join(f"{count} {name}" for name, count in served.items() if count)
    out.print(f"[bold]{when}[/]: {report.prompt_tokens} tokens, level {report.level}; of the context {words or 'none'}")
    read: dict[str, int] = {}
    for chunk in report.chunks:
        if chunk.tier:
            read[chunk.tier] = read.get(chunk.tier, 0) + chunk.end - chunk.begin
    if read:
        out.print(f"tokens read from: {escape(tiers(read))}")
    missed = [chunk for chunk in report.chunks if chunk.cause]
    if not missed:
        out.print("Nothing was missed.")
        return
    table = Table(show_lines=True)
    for name in ("tokens", "text", "why"):
        table.add_column(name, overflow="fold")
    for chunk in missed:
        place = "shared prefix" if chunk.segment == 0 else f"document {chunk.segment}"
        table.add_row(f"{chunk.begin}..{chunk.end}", place, "\n".join(_lines(chunk, report)))
    out.print(table)
    for cause in dict.fromkeys(chunk.cause for chunk in missed):
        out.print(f"[bold]{cause}[/]: {escape(_advice(cause)[1])}")
    for node in report.nodes:
        state = "answers" if node.reachable else "DOES NOT ANSWER"
        out.print(f"node {escape(node.target)} {state}, breaker {node.breaker.replace('_', ' ')}")


def _lines(chunk: ChunkExplanation, report: MissReport) -> Iterator[str]:
    text = _advice(chunk.cause)[0]
    if chunk.departed_unix_seconds is not None:
        text += f", {ago(chunk.departed_unix_seconds)}"
    if chunk.namespace:
        text += f": {chunk.namespace}"
    if chunk.detail:
        text += f" ({chunk.detail})"
    yield f"[bold]{chunk.cause}[/]: {escape(text)}"
    if chunk.stored_form:
        yield escape(f"stored: {chunk.stored_form[:16]}; looked for: {chunk.wanted_form[:16]}")
    if chunk.other_model_fingerprint:
        parts = ", ".join(chunk.model_differences) or "not known"
        yield escape(f"model {chunk.other_model_fingerprint[:16]}... differs in: {parts}")
    if chunk.cause == "gate_closed":
        predicted = "was not measured" if chunk.predicted_kl is None else f"is at least {chunk.predicted_kl:.2g}"
        yield f"context {chunk.context}: predicted KL {predicted}; allowed: {report.max_kl:.2g}"
    if chunk.divergence is not None:
        yield from _divergence(chunk.divergence)
    if chunk.stored_since:
        yield "[green]It has been stored since.[/]"


def _divergence(found: Divergence) -> Iterator[str]:
    def told(token: int | None) -> str:
        return "the end" if token is None else f"token {token}"

    yield (
        f"first difference at token {found.position}, which is token {found.stored_offset} of {found.stored_tokens} of "
        f"the nearest stored chunk: stored {told(found.expected_token)}, got {told(found.got_token)}"
    )
    if found.expected_text or found.got_text:
        yield f"after:  [dim]{escape(repr(found.text_before))}[/]"
        yield f"stored: [green]{escape(repr(found.expected_text))}[/]"
        yield f"got:    [red]{escape(repr(found.got_text))}[/]"
    if found.same_tokens:
        yield (
            f"in common: {found.same_tokens} tokens, here from {found.same_begin} on, "
            f"in the stored chunk from {found.same_stored_offset} on"
        )


def _advice(cause: str) -> tuple[str, str]:
    """Of a cause; one that a newer router knows gets no advice."""
    return ADVICE.get(cause, (cause, "see docs/reference.md of the router's version"))


def ago(when: float, now: float | None = None) -> str:
    """A time for people."""
    seconds = max(0.0, (time.time() if now is None else now) - when)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return f"{int(seconds)} s ago"
