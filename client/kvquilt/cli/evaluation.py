"""`kvquilt eval`: what each way to blend costs and does, on a user's own documents."""

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from kvquilt.cli.options import Json, way
from kvquilt.cli.output import INTERRUPTED, err, explained, out, print_json
from kvquilt.cli.texts import read_texts
from kvquilt_rpc.version import VERSION

if TYPE_CHECKING:
    from kvquilt_codec.joint import JointCoder
    from kvquilt_router.evaluation.table import Summary
    from kvquilt_router.evaluation.types import Outcome, Trial
    from kvquilt_router.gate.types import Decision

MIN_CONTEXT_TOKENS = 512


def evaluate(
    documents: Annotated[list[Path], typer.Option(help="Text file or folder to make prompts of. Repeatable.")],
    model: Annotated[str, typer.Option(help='Folder of a Hugging Face model, or "smollm2".')] = "smollm2",
    dtype: Annotated[str, typer.Option(help="Type to compute in.")] = "float32",
    profile: Annotated[
        Path | None, typer.Option(help="Codec profile: measure chunks that went through it at its best level too.")
    ] = None,
    cases: Annotated[int, typer.Option(min=1, help="Prompts to try everything on.")] = 16,
    context_tokens: Annotated[
        int, typer.Option(min=MIN_CONTEXT_TOKENS, help="About so many tokens of passages a prompt.")
    ] = 1024,
    policy: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:RATIO", help="Try this recompute policy too. Repeatable."),
    ] = None,
    max_kl: Annotated[float, typer.Option(min=1e-9, help="Limit of the gate, in nats: what would it choose?")] = 0.3,
    output: Annotated[Path | None, typer.Option(help="Write the figures to this JSON file.")] = None,
    as_json: Json = False,
) -> None:
    """Compare ways to blend with full prefills, on prompts made of your own documents.

    Takes minutes; needs no server. Prompts are passages of the documents in random order with questions about them, all
    from one folder below the one given, and the answers that count are those of a full prefill. Interrupted, it shows
    what was measured so far.
    """
    with explained(as_json):
        from kvquilt_router.engine import load_model  # imports torch
        from kvquilt_router.evaluation import own
        from kvquilt_router.evaluation.kinds import in_words
        from kvquilt_router.evaluation.run import outcomes, stored
        from kvquilt_router.evaluation.table import summarise
        from kvquilt_router.gate.would_say import would_say

        ways = [way(text) for text in policy or ()]
        texts = read_texts(documents)
        own.trials(ways, [])  # refuses what does not exist before anything is loaded
        measured: dict[str, dict[Trial, Outcome]] = {}
        interrupted = False
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=err, transient=True, disable=as_json) as progress:
            task = progress.add_task("loading the model", total=None)
            loaded = load_model(model, dtype=dtype)
            coder = None if profile is None else _coder(profile, loaded.fingerprint)
            level = "" if coder is None else max(coder.profile.cards, key=lambda card: card.quality_layers).level
            codecs = {} if coder is None else {level: stored(coder, level)}
            tried = own.trials(ways, list(codecs))
            progress.update(task, description="passages to warm up with")
            prepared = own.prepared(loaded, texts, codecs, context_tokens)
            progress.update(task, total=cases * len(tried))
            try:
                for case in prepared.cases(cases, context_tokens):
                    found = measured[case.name] = {}
                    for trial, outcome in outcomes(loaded.engine, case, tried, prepared.shared(case)):
                        found[trial] = outcome
                        progress.update(task, description=f"case {len(measured)} of {cases}", advance=1)
            except KeyboardInterrupt:
                interrupted = True
        by_trial: defaultdict[Trial, list[Outcome]] = defaultdict(list)
        for done in measured.values():
            for trial, outcome in done.items():
                by_trial[trial].append(outcome)
        lines = summarise(measured, own.REFERENCE)
        decisions = would_say(by_trial, loaded.fingerprint, level, max_kl)
        figures = {
            "name": "eval",
            "version": VERSION,
            "conditions": {
                "model": model,
                "dtype": dtype,
                "profile": "" if coder is None else coder.digest,
                "documents": len(texts),
                "kinds": list(prepared.kinds),
                "context_tokens": context_tokens,
                "max_kl": max_kl,
                "interrupted": interrupted,
            },
            "rows": [_row(line) for line in lines],
            "gate": [_decided(context, decision) for context, decision in decisions.items()],
        }
        if output is not None:
            output.write_bytes(msgspec.json.format(msgspec.json.encode(figures)) + b"\n")
        if as_json:
            print_json(figures)
        else:
            _show(lines, decisions, max_kl)
            out.print(f"passages of a prompt are of one kind; {in_words(prepared.kinds)}", soft_wrap=True, markup=False)
        if interrupted:
            err.print("interrupted; shown is what was measured before")
            raise typer.Exit(INTERRUPTED)


def _coder(path: Path, model_fingerprint: str) -> "JointCoder":
    from kvquilt_codec.joint import JointCoder
    from kvquilt_codec.profile import file
    from kvquilt_router.profiles import read_profile

    data = read_profile(path, model_fingerprint)
    return JointCoder(file.load(data), file.digest(data))


def _row(line: "Summary") -> dict[str, Any]:
    return {**line.row("cacheblend15"), "tokens_recomputed": line.tokens_recomputed}


def _decided(context: str, decision: "Decision") -> dict[str, Any]:
    return {
        "context": context,
        "policy": decision.policy,
        "recompute_ratio": decision.recompute_ratio,
        "predicted_kl": decision.predicted_kl,
        "refusal": decision.refusal,
    }


def _show(lines: "list[Summary]", decisions: "dict[str, Decision]", max_kl: float) -> None:
    table = Table(
        "policy", "ratio", "variant", "level", "KL", "against CacheBlend 15 %", "top-1", "answers", "CPU", "cases"
    )
    for line in lines:
        trial, relative = line.trial, line.kl_ratio
        agreement = line.answer_agreement
        table.add_row(
            trial.policy,
            f"{trial.recompute_ratio:.0%}",
            trial.variant,
            trial.level,
            f"{line.kl_geomean:.2e}",
            "" if relative is None else f"{relative[0]:.2g} [{relative[1]:.2g}, {relative[2]:.2g}]",
            f"{line.top1_agreement:.1%}",
            "" if agreement is None else f"{agreement:.0%}",
            f"{line.cpu_share:.2f}",
            str(line.cases),
        )
    out.print(table)
    out.print("KL(full || blended) of the answer's tokens, nats, geometric mean; CPU time relative to a full prefill")
    if not decisions:
        out.print("too few cases for what a gate would say: 4 at least")
    for context, decision in decisions.items():
        said = (
            f"nothing measured stays within {max_kl} nats: such chunks would be computed ({decision.refusal})"
            if decision.refusal
            else f"{decision.policy} {decision.recompute_ratio:.0%}; 95 % of such prompts stay below "
            f"{decision.predicted_kl:.2g} nats"
        )
        out.print(f"a gate of these cases, {context} chunks: {said}")
