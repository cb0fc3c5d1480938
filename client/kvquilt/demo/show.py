"""What the demo prints."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from kvquilt.cli.output import out, size
from kvquilt.demo.profile import GIVEN, SHIPPED, Proof
from kvquilt.demo.rows import CASES, CONVERSATION, NEW_ORDER, SAME_PREFIX, Measured, MeasuredLevel, Summary, summaries

_SHORT = {NEW_ORDER: "new order", SAME_PREFIX: "same passages", CONVERSATION: "conversation"}


def show_proof(proof: Proof) -> None:
    """Say where profile and gate are from, before anything rests on them."""
    if proof.origin != GIVEN:
        out.print(Text(f"codec profile and gate: {proof.words}"))
    if proof.origin == SHIPPED:
        out.print(Text("all else is measured now; `kvquilt demo --measure` measures profile and gate here, too"))
    out.print()


def show_question(measured: Measured) -> None:
    """One question: both answers, their times and how far they are apart."""
    report = measured.report
    out.print(Text.assemble((measured.question, "bold"), f"  ({CASES[measured.case]})"))
    answers = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    answers.add_row("full prefill", f"{measured.ttft_full_s:.2f} s", Text(measured.full.text))
    answers.add_row("kvquilt", f"{measured.ttft_kvquilt_s:.2f} s", Text(measured.answer.text))
    out.print(answers)
    out.print(
        Text(
            f"{measured.ratio:.2f} of the time; tokens: {report.tokens_exact} exact, {report.tokens_reused} reused, "
            f"{report.tokens_recomputed} recomputed, {report.tokens_computed} computed; "
            f"{size(report.fetched_bytes)} fetched"
        )
    )
    agreement = f"top-1 agreement {measured.difference.top1_agreement:.0%}"
    out.print(Text(f"answer KL {measured.difference.answer_kl:.1e} ({predicted(report.predicted_kl)}), {agreement}"))
    if report.gate_refusal:
        out.print(Text(f"blending was refused by the gate ({report.gate_refusal}): exact reuse only"))
    elif measured.case == NEW_ORDER:
        share = f"{report.recompute_ratio:.0%} of the tokens whose context changed are recomputed"
        out.print(Text(f"policy {report.policy}, {share}"))
    out.print()


def predicted(kl: float | None) -> str:
    """A prediction in words."""
    return "nothing predicted" if kl is None else f"predicted below {kl:.2g}"


def show_levels(levels: Sequence[MeasuredLevel]) -> None:
    """One question at every level of the codec."""
    if not levels:
        out.print("no codec profile: documents are stored in 8 bits per element")
        return
    table = Table(
        "level",
        "fetched",
        "of bf16",
        "answer KL",
        "predicted",
        "top-1",
        title=f"One of the questions over {CASES[NEW_ORDER]}, at every level, from the same stored objects",
        title_justify="left",
    )
    for level in levels:
        table.add_row(
            level.level,
            size(level.bytes_fetched),
            f"{level.bytes_fetched / level.bytes_bf16:.0%}",
            f"{level.answer_kl:.1e}",
            predicted(level.predicted_kl),
            f"{level.top1_agreement:.0%}",
        )
    out.print(table)


def show_summary(measured: Sequence[Measured], seconds: float, output: Path | None) -> None:
    """All questions, by case, before and after the restart."""
    columns = ("case", "TTFT, full prefill = 1", "answer KL", "top-1", "same words")
    table = Table(*columns, title="All questions", title_justify="left")
    for summary in summaries(measured, restarted=False):
        table.add_row(*_row(summary))
    table.add_section()
    table.add_row("after the restart")
    for summary in summaries(measured, restarted=True):
        table.add_row(*_row(summary))
    out.print(table)
    again = [m.report for m in measured if m.restarted]
    chunks = sum(len(report.chunks) for report in again)
    missed = sum(bool(chunk.miss_reason) for report in again for chunk in report.chunks)
    out.print(f"after the restart: {chunks - missed} of {chunks} chunks hit; the demo took {seconds:.0f} s")
    if output is not None:
        out.print(f"figures: {output}")
    out.print(
        "\nNext:\n"
        "  kvquilt serve                                              # a server that keeps its store\n"
        "  kvquilt prefetch README.md docs                            # your own files\n"
        '  kvquilt ask "What is a variant?" --doc docs/concepts.md --compare',
        markup=False,
    )


def _row(summary: Summary) -> tuple[str, ...]:
    several = summary.questions > 1
    kl = f"{summary.answer_kl:.1e}" + (f" (worst {summary.answer_kl_worst:.1e})" if several else "")
    kl += "" if summary.predicted_kl is None else f"; {predicted(summary.predicted_kl)}"
    kl += f", {summary.beyond_predicted} beyond" if summary.beyond_predicted else ""
    return (
        _SHORT[summary.case],
        f"{summary.ttft_ratio:.2f}" + (f" (worst {summary.ttft_ratio_worst:.2f})" if several else ""),
        kl,
        f"{summary.top1_agreement:.0%}",
        f"{summary.same_answers} of {summary.questions}",
    )
