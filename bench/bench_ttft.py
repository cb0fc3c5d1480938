"""TTFT with and without kvquilt, per serving engine, in the same run: `make bench-ttft`. Writes results/ttft.json.

A router with its node runs in a process of its own, and so does vLLM; they share the machine's cores. A figure that is
missed is printed as missed and is no failure: machines differ. What is missing on first use is made: the codec profile
and the gate of the demo model in this type (some ten minutes, once).
"""

import argparse
import random
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from report import publish
from ttft import cases
from ttft.cases import BLENDED, DOWN, EXACT, MISS, Case, figure, measure, shown
from ttft.engines import ENGINES, opened
from ttft.prompts import Prompts
from ttft.proof import Proof, proven
from ttft.replay import WAYS, Way, replay
from ttft.sessions import PROSE, Words, conversations, lengths, rag_sessions
from ttft.stage import Stage, free_port
from ttft.texts import FOLDER, asked
from ttft.types import RagPrompt
from ttft.vllm_engine import PYTHON, VllmEngine

MODEL = "smollm2"
SEED = 6
REPLAY = "replay"
TURNS = 4
CASES = (*(case.name for case in cases.ALL), REPLAY)


def main() -> None:
    chosen = _arguments()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bench = Bench(chosen, progress)
        bench.run()
    conditions = {
        "model": MODEL,
        "dtype": chosen.dtype,
        "texts": "bench/texts/qa",
        "prompts": f"{chosen.prompts} a case, each off and on by turns",
        "level": chosen.level,
        "router_threads": chosen.threads,
        "pause_s": chosen.pause,
    }
    if bench.replayed:
        conditions["sessions"] = f"{TURNS} turns, lengths: {bench.lengths.source}"
    figures = [figure(row) for row in bench.rows]
    table = shown(bench.rows) or bench.replayed
    publish("ttft", conditions, bench.rows, table=table, figures=figures, replay=bench.replayed)


class Bench:
    """Measures the chosen cases of the chosen engines.

    Attributes:
        rows: of `ttft.json`.
        replayed: its rows of replayed sessions.
        lengths: of these sessions.
    """

    def __init__(self, chosen: argparse.Namespace, progress: Progress) -> None:
        self._chosen = chosen
        self._progress = progress
        self.rows: list[dict[str, Any]] = []
        self.replayed: list[dict[str, Any]] = []
        self.lengths = lengths(chosen.data)
        self._made = made = Prompts(MODEL)
        self._prompts: dict[Case, list[RagPrompt]] = {
            case: made.drawn(asked(part), chosen.prompts + 1, case.tokens, SEED)
            for case, part in ((BLENDED, 0), (EXACT, 1), (MISS, 3), (DOWN, 3))
        }

    def run(self) -> None:
        """Everything."""
        proof = proven(self._chosen.dtype, self._stages("profile and gate"))
        chosen = self._chosen
        for engine in chosen.engines:
            if engine == VllmEngine.name and not chosen.vllm_python.is_file():
                self._progress.console.print(f"vllm is left out: {chosen.vllm_python} is not there (make test-vllm)")
                continue
            with tempfile.TemporaryDirectory() as folder:
                stage = Stage(Path(folder), chosen.dtype, chosen.threads, proof, chosen.level, free_port())
                self._engine(engine, stage)
            if REPLAY in chosen.cases:
                for way in chosen.ways:
                    self._replay(engine, proof, WAYS[way])

    def _engine(self, name: str, stage: Stage) -> None:
        wanted = [case for case in cases.ALL if case.name in self._chosen.cases]
        if BLENDED in wanted:
            # With the gate: without one, documents are stored for use right after the shared prefix, and not warmed up.
            with stage.router(background=False) as router:
                stage.prefetch(router, self._prompts[BLENDED], self._counter(f"{name}: prefetch", None))
        if EXACT in wanted:
            prompts = self._prompts[EXACT]
            with stage.router(background=True, gated=False) as router:
                stage.remember(router, prompts, self._counter(f"{name}: exact contexts", len(prompts)), patience=300)
        with ExitStack() as opening, stage.router(background=False) as router:
            engine = opening.enter_context(
                opened(name, router, self._chosen.dtype, self._chosen.threads, self._chosen.vllm_python)
            )
            for case in wanted:
                if case is not DOWN:
                    self._measure(engine, case)
            after = opening.pop_all()
        with after:
            if DOWN in wanted:
                self._measure(engine, DOWN)

    def _replay(self, name: str, proof: Proof, way: Way) -> None:
        chosen, rng = self._chosen, random.Random(SEED)
        words = Words([(FOLDER.parent / f"{text}.txt").read_text(encoding="utf-8") for text in PROSE], self._made.count)
        for called, made in (("conversations", conversations), ("RAG sessions", rag_sessions)):
            sessions = [
                [self._made.prompt(turn.documents, turn.question) for turn in session]
                for session in made(chosen.sessions, TURNS, self.lengths, words, rng)
            ]
            with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
                stage = Stage(Path(folder), chosen.dtype, chosen.threads, proof, chosen.level, free_port())
                router = stack.enter_context(stage.router(background=True))
                if way.prefetches and made is rag_sessions:
                    turns = [turn for session in sessions for turn in session]
                    stage.prefetch(router, turns, self._counter(f"{name}: prefetch", None))
                engine = stack.enter_context(opened(name, router, chosen.dtype, chosen.threads, chosen.vllm_python))
                told = self._counter(f"{name}: {called}, {way.name}", chosen.sessions * TURNS)
                self.replayed.append(replay(engine, called, sessions, router, told, way, level=chosen.level))

    def _measure(self, engine: Any, case: Case) -> None:
        prompts = self._prompts[case]
        told = self._counter(f"{engine.name}: {case.name}", len(prompts))
        self.rows.append(measure(engine, case, prompts, told, pause=self._chosen.pause, level=self._chosen.level))

    def _counter(self, text: str, total: int | None) -> Callable[[], None]:
        task = self._progress.add_task(text, total=total)
        return lambda: self._progress.advance(task)

    def _stages(self, text: str) -> Callable[[str, int, int], None]:
        task = self._progress.add_task(text, total=None)
        return lambda stage, done, total: self._progress.update(
            task, description=f"{text}: {stage}", completed=done, total=total
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--prompts", type=int, default=5, help="of each case, besides one that warms up")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of model, router and engine"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the router, and of the engine")
    parser.add_argument("--vllm-python", type=Path, default=PYTHON, help="of an environment with vLLM and kvquilt")
    parser.add_argument("--sessions", type=int, default=3, help="of each kind that are replayed")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="how they are asked")
    parser.add_argument("--pause", type=float, default=1.2, help="seconds of rest before each request, off and on")
    parser.add_argument("--data", type=Path, help="folder with traces/: their lengths, instead of their deciles")
    parser.add_argument("--level", default="lossless", help="of documents")
    return parser.parse_args()


if __name__ == "__main__":
    main()
