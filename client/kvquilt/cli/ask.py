"""`kvquilt ask`: a question over documents, answered by a model in this process with KV from the router."""

from pathlib import Path
from typing import Annotated, Any

import typer

from kvquilt.cli.calls import client_settings
from kvquilt.cli.options import ConfigFile, Json, Level, MaxKl, Policy, Ratio, Router, Set
from kvquilt.cli.output import explained, out, print_json, print_table, size, tiers
from kvquilt.documents import read_documents
from kvquilt.types import BlendReport


def ask(
    question: Annotated[str, typer.Argument(help="The question.")],
    doc: Annotated[list[Path], typer.Option("--doc", help="File or folder, in prompt order. Repeatable.")],
    model: Annotated[str, typer.Option(help="The router's model: its folder, or smollm2.")] = "smollm2",
    dtype: Annotated[str, typer.Option(help="Type to compute in; must be the router's.")] = "float32",
    max_tokens: Annotated[int, typer.Option(min=1, max=4096, help="Longest answer.")] = 48,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compute the prompt in full too, and measure the difference.")
    ] = False,
    policy: Policy = None,
    ratio: Ratio = None,
    level: Level = None,
    max_kl: MaxKl = None,
    router: Router = None,
    flags: Set = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Answer a question over documents. This process is the worker: it holds the model and decodes.

    Documents that were not prefetched are computed, and stored for the next time.
    """
    with explained(as_json):
        settings = client_settings(config, flags, router)
        from kvquilt.cli.worker import Worker  # imports torch

        segments = [*(document.content for document in read_documents(doc)), f"\n\nQuestion: {question}"]
        worker = Worker(model, settings.router, dtype=dtype, credentials=settings.credentials)
        try:
            options: dict[str, Any] = {
                "policy": policy,
                "recompute_ratio": ratio,
                "level": level,
                "max_kl": max_kl,
            }
            answer = worker.ask(segments, max_tokens=max_tokens, **options)
            filled = answer.filled
            report = filled.report if filled is not None else None
            result: dict[str, Any] = {
                "answer": answer.text,
                "ttft_s": answer.ttft_s,
                "fallback_reason": filled.fallback_reason if filled is not None else "",
                "report": report,
            }
            if compare:
                full = worker.ask_in_full(segments, max_tokens=max_tokens)
                result |= {
                    "full_answer": full.text,
                    "ttft_full_s": full.ttft_s,
                    "difference": worker.difference(full, answer),
                }
        finally:
            worker.close()
        if as_json:
            print_json(result)
            return
        out.print(answer.text, markup=False)
        print_table("", _rows(result, report))


def _rows(result: dict[str, Any], report: BlendReport | None) -> dict[str, object]:
    rows: dict[str, object] = {"TTFT": f"{result['ttft_s']:.3f} s"}
    if report is None:
        rows["cache"] = f"could not help ({result['fallback_reason']}): computed in full"
    else:
        rows["tokens"] = (
            f"{report.tokens_exact} exact, {report.tokens_reused} reused, {report.tokens_recomputed} recomputed, "
            f"{report.tokens_computed} computed"
        )
        rows["fetched"] = f"{size(report.fetched_bytes)} ({size(report.bf16_bytes)} as bf16), level {report.level}"
        rows["tokens read from"] = tiers(report.tokens_by_tier()) or "nothing"
        missed = {chunk.miss_reason for chunk in report.chunks if chunk.miss_reason}
        rows["to be stored"] = f"{report.tokens_queued} tokens, after this request"
        rows["saved"] = saved_words(report)
        rows["missed"] = ", ".join(sorted(missed)) or "nothing"
        if missed and report.request_id:
            rows["why"] = f"kvquilt why {report.request_id}"
        rows["blend"] = blend_words(report)
    if "difference" in result:
        rows["full prefill"] = f"{result['ttft_full_s']:.3f} s"
        rows["answer then"] = result["full_answer"]
        rows["answer KL"] = (
            f"{result['difference'].answer_kl:.2e}, first token {result['difference'].first_token_kl:.2e}"
        )
        rows["top-1 agreement"] = f"{result['difference'].top1_agreement:.0%}"
    return rows


def saved_words(report: BlendReport) -> str:
    """What the cache saved, by its own estimate."""
    if report.saved_seconds is None or report.prefill_seconds_per_token is None:
        return "not known yet: the router has computed no prompt of this model"
    verb = "about" if report.saved_seconds >= 0 else "nothing, it cost about"
    at = f"at {report.prefill_seconds_per_token * 1e3:.2f} ms a token of prefill"
    return f"{verb} {abs(report.saved_seconds) * 1e3:.0f} ms, {at}"


def blend_words(report: BlendReport) -> str:
    """How chunks whose context changed were blended, and what divergence the gate predicted."""
    if report.gate_refusal:
        return f"refused by the gate ({report.gate_refusal}): exact reuse only"
    predicted = "not known" if report.predicted_kl is None else f"predicted KL below {report.predicted_kl:.2g}"
    return f"{report.policy} at {report.recompute_ratio:.0%}, {predicted}"
