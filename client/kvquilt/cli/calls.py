"""`kvquilt prefetch`, `status`: what calls a running router."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kvquilt.cli.options import ConfigFile, Corpus, Json, Level, Router, Set, overrides
from kvquilt.cli.output import PARTIAL, err, explained, print_json, print_table, size
from kvquilt.cli.settings import ClientSettings, load
from kvquilt.documents import read_documents
from kvquilt.states import GateStatus, NodeStatus, ProfileStatus
from kvquilt.sync import Client
from kvquilt.types import PrefetchProgress


def client_settings(config: Path | None, flags: list[str] | None, router: str | None) -> ClientSettings:
    """Effective settings of a command that calls a router."""
    return load(config, overrides(flags, client__router=router)).settings.client


def prefetch(
    paths: Annotated[list[Path], typer.Argument(help="Text files, and folders of them. The path is the document id.")],
    prefix_file: Annotated[
        Path | None, typer.Option(help="Text that the application's prompts begin with. Default: the chat template.")
    ] = None,
    level: Level = None,
    corpus: Corpus = "",
    ttl: Annotated[
        float | None, typer.Option(help="Seconds that what this stores stays at most. Default: the router's.")
    ] = None,
    ttl_renewed: Annotated[bool, typer.Option("--ttl-renewed", help="Each use begins the TTL anew.")] = False,
    router: Router = None,
    flags: Set = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Compute and store the KV of documents, so that later prompts find it.

    May be interrupted and run again: what is stored is found, not computed again. With --json, one line per document
    and a summary. Exit code 7 if some chunks could not be stored.
    """
    with explained(as_json):
        settings = client_settings(config, flags, router)
        documents = read_documents(paths)
        prefix = prefix_file.read_text(encoding="utf-8") if prefix_file is not None else None
        lasting = {"ttl": ttl, "ttl_renewed": ttl_renewed}
        done: list[PrefetchProgress] = []
        with Client(settings.router, settings.credentials) as client, _bar(as_json) as bar:
            task = bar.add_task("prefetch", total=len(documents))
            for item in client.prefetch(documents, shared_prefix=prefix, level=level, corpus=corpus, **lasting):
                done.append(item)
                bar.update(task, completed=item.done, description=item.document_id[-40:])
                if as_json:
                    print_json(item)
        failed = sum(item.failed for item in done)
        summary = {
            "documents": len(done),
            "tokens": sum(item.tokens for item in done),
            "chunks stored": sum(item.stored for item in done),
            "chunks present before": sum(item.present for item in done),
            "chunks failed": failed,
            "bytes stored": sum(item.stored_bytes for item in done),
            "seconds computing": round(sum(item.compute_seconds for item in done), 3),
        }
        if as_json:
            print_json({"summary": {name.replace(" ", "_"): value for name, value in summary.items()}})
        else:
            print_table("prefetch", summary | {"bytes stored": size(float(summary["bytes stored"]))})
        if failed:
            err.print(next(item.failure_reason for item in done if item.failed), markup=False)
            raise typer.Exit(PARTIAL)


def status(router: Router = None, flags: Set = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Show how the router and its cache nodes are: models, stores, counters."""
    with explained(as_json):
        settings = client_settings(config, flags, router)
        with Client(settings.router, settings.credentials) as client:
            state = client.status(deadline=settings.deadline)
        if as_json:
            print_json(state)
            return
        rows: dict[str, object] = {"version": state.version}
        for model in state.models:
            layout = model.layout
            rows[f"model {model.name}"] = (
                f"{model.architecture}, {len(layout.layers)} layers, {layout.data_type.value}, "
                f"context {model.max_context_tokens}, fingerprint {model.fingerprint[:16]}..."
            )
            rows |= _profile_rows(model.profile)
            rows["gate"] = _gate_words(model.gate)
        rows["policies"] = ", ".join(state.policies)
        ratio = "" if state.default_recompute_ratio is None else f" at {state.default_recompute_ratio:.0%}"
        rows["defaults"] = (
            f"policy {state.default_policy}{ratio}, level {state.default_level}, "
            f"predicted KL at most {state.default_max_kl:g}"
        )
        if not any(node.reachable for node in state.nodes):
            rows["nodes"] = "NONE REACHABLE: everything is computed"
        for node in state.nodes:
            rows[f"node {node.target}"] = _node_words(node, overall=bool(state.counters))
        print_table("kvquilt", rows | state.counters)
        for namespace, sums in state.usage.items():
            print_table(f"namespace {namespace}", sums)


def _profile_rows(profile: ProfileStatus | None) -> dict[str, object]:
    if profile is None:
        return {"profile": "none: levels lossless and high"}
    rows: dict[str, object] = {"profile": profile.digest}
    if profile.miss_reason:
        rows["profile"] = f"{profile.digest}, NOT AT HAND ({profile.miss_reason}): documents are computed"
    for card in profile.levels:
        rows[f"level {card.level}"] = (
            f"{card.bits_per_element:.2f} bits per element, KL {card.kl:.2e}, top-1 {card.top1_agreement:.1%}"
        )
    return rows


def _node_words(node: NodeStatus, *, overall: bool) -> str:
    breaker = f"breaker {node.breaker.replace('_', ' ')}"
    calls = f"; {node.calls} calls, {node.failures} failed, {node.outstanding} running" if overall else ""
    if not node.reachable:
        return f"NOT REACHABLE, {breaker}{calls}"
    held = f", {node.objects} objects, {size(node.used_bytes)} of {size(node.capacity_bytes)}" if overall else ""
    if node.pinned_bytes:
        held += f", {size(node.pinned_bytes)} pinned"
    if node.pending_deletions:
        held += f", {node.pending_deletions} still to be deleted"
    drains = "" if node.serving else "; drains"
    return f"{node.store}{held}, {node.kernels} kernels; {breaker}{calls}{drains}"


def _gate_words(gate: GateStatus) -> str:
    if gate.missing_reason:
        return f"NONE ({gate.missing_reason}): exact reuse only"
    withdrawn = sum(point.withdrawn for point in gate.points)
    audits = sum(point.audits for point in gate.points)
    exceeded = sum(point.audits_exceeded for point in gate.points)
    found = f"{len(gate.points)} points measured, {withdrawn} withdrawn; {audits} audits, {exceeded} beyond their bound"
    return f"{found}; from {gate.source if gate.source != 'node' else 'the node'}"


def _bar(quiet: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=err, disable=quiet, transient=True)
