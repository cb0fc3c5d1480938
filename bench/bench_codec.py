"""Codec: size, effect and speed of kvquilt's levels beside other ways to store KV, on texts apart from calibration's.

Writes results/codec.json and results/codec.png. LMCache's CacheGen runs in an environment of its own (`make
bench-codec` makes it); without one, its rows say so. The demo model's profile is calibrated on first use.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from threadpoolctl import threadpool_limits

import chart
import kvquilt_kernels
from comparators import lmcache_cachegen
from comparators.cachegen_paper import CacheGenPaper
from comparators.fp8 import Fp8
from comparators.groups import TokenGroups
from comparators.kivi import Kivi
from comparators.kvquilt_levels import WithoutProfile, WithProfile
from comparators.plain import Bf16, Zstd
from comparators.types import Comparator, Context, in_bfloat16
from effect import Effect, Judge, mean
from kvquilt.demo.profile import made_once
from kvquilt_codec.errors import BadRequestError, KvquiltError, UnavailableError
from kvquilt_codec.joint import JointCoder
from kvquilt_codec.profile import file
from kvquilt_codec.types import Level
from kvquilt_router.calibration import Piece, Text
from kvquilt_router.calibration.corpus import shipped_texts
from kvquilt_router.calibration.texts import PIECE_TOKENS
from kvquilt_router.engine import LoadedModel, load_model
from kvquilt_router.engine.model import resolve
from kvquilt_router.profiles import read_profile
from report import RESULTS, publish

ROOT = Path(__file__).parent
MODEL = "smollm2"
LMCACHE = "LMCache CacheGen"
LMCACHE_FACTORS = {1: "default bins", 2: "twice the bins"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One context by one method: stored bits, CPU seconds (None: without meaning), and the effect."""

    bits: float
    encode_s: float | None
    decode_s: float | None
    effect: Effect


Step = Callable[[str], None]
"""Told of every context that is done, by the method's name."""


def bench_texts(only: Sequence[str] = ()) -> list[Text]:
    """The texts to measure on, or those of them that are named."""
    paths = {path.stem: path for path in sorted((ROOT / "texts").glob("*.txt"))}
    if unknown := set(only) - paths.keys():
        raise BadRequestError(f"expected names of {sorted(paths)}; got {sorted(unknown)}")
    return [Text(name, path.read_text(encoding="utf-8")) for name, path in paths.items() if name in only or not only]


def piece(model: LoadedModel, text: Text) -> Piece:
    """The first tokens of a text."""
    token_ids = model.tokenise(text.content)
    if len(token_ids) < PIECE_TOKENS:
        raise BadRequestError(f"expected {PIECE_TOKENS} tokens in every text; {text.name} has {len(token_ids)}")
    return Piece(token_ids[:PIECE_TOKENS])


def run(comparator: Comparator, judges: Sequence[Judge]) -> Iterator[Outcome]:
    """Each context through a method, timed alone; the first goes through it once before."""
    first = judges[0].context
    comparator.decode(comparator.encode(first), first.token_ids, first.layout)
    for judge in judges:
        context = judge.context
        # As in the servers: threads that wait for each other would count as work.
        with threadpool_limits(1, user_api="blas"):
            started = process_time()
            stored = comparator.encode(context)
            encoded = process_time()
            chunk = comparator.decode(stored, context.token_ids, context.layout)
            decoded = process_time()
        seconds = (encoded - started, decoded - encoded) if comparator.timed else (None, None)
        yield Outcome(stored.bits, *seconds, judge.judge(chunk))


def run_lmcache(python: Path, factor: int, judges: Sequence[Judge]) -> Iterator[Outcome]:
    """Each context through LMCache's CacheGen."""
    contexts = [judge.context for judge in judges]
    for judge, coded in zip(judges, lmcache_cachegen.run(python, resolve(MODEL), contexts, factor), strict=True):
        yield Outcome(8 * coded.bytes, coded.encode_s, coded.decode_s, judge.judge(coded.chunk))


def row(method: str, level: str, judges: Sequence[Judge], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """All contexts have the same number of tokens, so that means of them are means of tokens."""
    elements, effect = judges[0].context.elements, mean([outcome.effect for outcome in outcomes])
    full = mean([judge.full for judge in judges])
    result = empty_row(method, level) | {
        "bits_per_element": sum(outcome.bits for outcome in outcomes) / len(outcomes) / elements,
        "kl": effect.kl,
        "top1_agreement": effect.top1_agreement,
        "perplexity_delta": effect.perplexity - full.perplexity,
    }
    if all(outcome.decode_s is not None for outcome in outcomes):
        encode_s, decode_s = (median(getattr(o, name) for o in outcomes) for name in ("encode_s", "decode_s"))
        result["encode_gsym_s"] = elements / encode_s / 1e9
        result["decode_gsym_s"] = elements / decode_s / 1e9
        result["decode_bf16_gb_s"] = 2 * elements / decode_s / 1e9
    return result


def empty_row(method: str, level: str) -> dict[str, Any]:
    """A row without figures."""
    figures = ("bits_per_element", "kl", "top1_agreement", "perplexity_delta", "encode_gsym_s", "decode_gsym_s")
    return {"method": method, "level": level} | dict.fromkeys((*figures, "decode_bf16_gb_s", "decode_vs_lmcache"))


def learned(model: LoadedModel, step: Step) -> list[Context]:
    """KV of the calibration texts, for methods that learn from it."""
    contexts = []
    for text in shipped_texts():
        token_ids = piece(model, text).token_ids
        chunk = in_bfloat16(model.engine.to_chunk(token_ids, model.engine.prefill(token_ids), 0, unrotate=False))
        contexts.append(Context(chunk, chunk))
        step("calibration texts")
    return contexts


def comparators(model: LoadedModel, coder: JointCoder, step: Step) -> Iterator[Comparator]:
    """In the order of the table; LMCache's apart."""
    yield from (Bf16(), Zstd(), Fp8(), TokenGroups(8), TokenGroups(4), Kivi(4), Kivi(2))
    contexts = learned(model, step)
    yield from (CacheGenPaper(contexts, scale) for scale in (1.0, 0.5))
    del contexts
    yield from (WithoutProfile(level, model.fingerprint) for level in (Level.LOSSLESS, Level.HIGH))
    for card in reversed(coder.profile.cards):
        yield WithProfile(coder, card.level, card.quality_layers)


def lmcache_rows(python: Path, judges: Sequence[Judge], step: Step) -> tuple[list[dict[str, Any]], str]:
    """Its rows, and its version or why it was not measured."""
    rows = []
    try:
        version = lmcache_cachegen.version(python)
        for factor, name in LMCACHE_FACTORS.items():
            outcomes = []
            for outcome in run_lmcache(python, factor, judges):
                outcomes.append(outcome)
                step(f"{LMCACHE}, {name}")
            rows.append(row(LMCACHE, name, judges, outcomes))
    except UnavailableError as error:
        missing = [name for name in LMCACHE_FACTORS.values() if name not in {row["level"] for row in rows}]
        return rows + [empty_row(LMCACHE, f"{name}: NOT MEASURED") for name in missing], f"not measured: {error}"
    return rows, version


def measure(
    model: LoadedModel, coder: JointCoder, python: Path, texts: Sequence[Text], progress: Progress
) -> tuple[list[dict[str, Any]], str, list[Judge]]:
    """Every method's row, LMCache's version or why it was not measured, and the judges, one a text."""
    methods = 12 + len(coder.profile.cards) + len(LMCACHE_FACTORS)
    task = progress.add_task("full prefills", total=len(texts) * (methods + 1) + len(shipped_texts()))

    def step(name: str) -> None:
        progress.update(task, description=name, advance=1)

    judges = []
    for text in texts:
        judges.append(Judge(model, piece(model, text)))
        step("full prefills")
    rows = []
    for comparator in comparators(model, coder, step):
        outcomes = []
        for outcome in run(comparator, judges):
            outcomes.append(outcome)
            step(f"{comparator.method}, {comparator.level}")
        rows.append(row(comparator.method, comparator.level, judges, outcomes))
    destroyed = []
    for judge in judges:
        destroyed.append(Outcome(0, None, None, judge.judge(None)))
        step("no context")
    rows.append(row("no context", "control", judges, destroyed))
    theirs, lmcache = lmcache_rows(python, judges, step)
    if theirs[0]["decode_gsym_s"]:
        for each in (*rows, *theirs):
            if each["decode_gsym_s"]:
                each["decode_vs_lmcache"] = each["decode_gsym_s"] / theirs[0]["decode_gsym_s"]
    first = next(index for index, each in enumerate(rows) if each["method"].startswith("kvquilt"))
    return [*rows[:first], *theirs, *rows[first:]], lmcache, judges


def told(progress: Progress, task: TaskID) -> Callable[[str, int, int], None]:
    """Calibration's stages, shown."""
    return lambda stage, done, total: progress.update(task, description=stage, completed=done, total=total)


def main(python: Path, given: Path | None, only: Sequence[str]) -> None:
    """Measure and publish."""
    texts = bench_texts(only)
    model = load_model(MODEL)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("profile of the demo model", total=None)
        path = given or made_once(model, shipped_texts, lambda: None, told(progress, task))
        data = read_profile(path, model.fingerprint)
        progress.remove_task(task)
        coder = JointCoder(file.load(data), file.digest(data))
        rows, lmcache, judges = measure(model, coder, python, texts, progress)
    conditions = {
        "model": f"SmolLM2-135M-Instruct, computing in float32 with {torch.get_num_threads()} threads",
        "kv": "rounded to bfloat16; kvquilt's levels but lossless un-rotate keys, other methods take them rotated",
        "texts": ", ".join(text.name for text in texts),
        "tokens": f"{PIECE_TOKENS * 3 // 4} context, {PIECE_TOKENS // 4} continuation each",
        "calibration": coder.profile.texts,
        "profile": coder.digest,
        "rate": "of stored bytes; CacheGen (paper): ideal code length",
        "speed": "elements per CPU second, a context of one thread, median of the texts; fp8, int and KIVI are NumPy",
        "kernels": kvquilt_kernels.default().name,
        "perplexity": f"{mean([judge.full for judge in judges]).perplexity:.3f} after a full prefill",
        "lmcache": f"{lmcache}, chunks of {lmcache_cachegen.CHUNK} tokens",
    }
    written = publish("codec", conditions, rows)
    caption = ", ".join(f"{key}: {value}" for key, value in conditions.items())
    chart.draw(rows, caption, RESULTS / "codec.png")
    Console().print(f"{written}\n{RESULTS / 'codec.png'}", soft_wrap=True)
    if not lmcache[0].isdigit():
        sys.stderr.write(f"{LMCACHE} was {lmcache}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lmcache", type=Path, default=ROOT.parent / ".venv-lmcache/bin/python", help="interpreter")
    parser.add_argument("--profile", type=Path, help="measure this one; by default it is made of the texts that ship")
    parser.add_argument("--texts", nargs="+", default=(), metavar="NAME", help="of bench/texts; by default all")
    arguments = parser.parse_args()
    try:
        main(arguments.lmcache, arguments.profile, arguments.texts)
    except KeyboardInterrupt:
        sys.exit(130)
    except KvquiltError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
