"""vLLM engines in processes of their own: one process can have one."""

import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "OMP_NUM_THREADS": "1",
}
"""What makes vLLM's CPU build behave on a small machine."""


_DEFAULTS = {"enforce_eager": True, "max_model_len": 8192, "max_num_seqs": 4, "disable_log_stats": False}


def transfer_config(target: str, **settings: object) -> dict[str, Any]:
    """`--kv-transfer-config`, as docs/vllm.md has it."""
    return {
        "kv_connector": "KvquiltConnector",
        "kv_connector_module_path": "kvquilt.integrations.vllm",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"target": target, **settings},
    }


@dataclass(frozen=True)
class Ask:
    """One request: what `said` has goes into `kv_transfer_params["kvquilt"]`."""

    token_ids: Sequence[int]
    said: Mapping[str, Any] = field(default_factory=dict)
    salt: str | None = None
    max_tokens: int = 12


@dataclass(frozen=True)
class Answer:
    token_ids: list[int]
    told: Mapping[str, Any]
    cached_tokens: int


class EngineProcess:
    """An engine behind a pipe."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def ask(self, *asks: Ask) -> list[Answer]:
        """Generate greedily for all at once."""
        answers: list[Answer] = self._call("ask", asks)
        return answers

    def one(self, token_ids: Sequence[int], *, salt: str | None = None, max_tokens: int = 12, **said: Any) -> Answer:
        """Generate for one prompt."""
        return self.ask(Ask(token_ids, said, salt, max_tokens))[0]

    def plain(self, token_ids: Sequence[int], max_tokens: int = 12) -> list[int]:
        """What vLLM gives without kvquilt, and without what it has cached itself."""
        self.forget()
        return self.one(token_ids, max_tokens=max_tokens, off=True).token_ids

    def abandon(self, ask: Ask, steps: int) -> None:
        """Abort a request after so many steps of the engine."""
        self._call("abandon", ask, steps)

    def steps(self, ask: Ask) -> tuple[int, float]:
        """Generate for one prompt: how many steps the engine made, and in how many seconds."""
        steps, seconds = self._call("steps", ask)
        return steps, seconds

    def forget(self) -> None:
        """Empty vLLM's own prefix cache."""
        assert self._call("forget")

    def counters(self) -> dict[str, int]:
        """The connector's."""
        counters: dict[str, int] = self._call("counters")
        return counters

    def preemptions(self) -> int:
        """How often vLLM has preempted a request."""
        count: int = self._call("preemptions")
        return count

    def _call(self, name: str, *arguments: object) -> Any:
        self._pipe.send((name, arguments))
        kind, result = self._pipe.recv()
        assert kind == "done", result
        return result


@contextmanager
def engine_process(
    model: str, target: str, settings: Mapping[str, Any] = {}, **options: Any
) -> Iterator[EngineProcess]:
    """An engine with our connector; `settings` are the connector's, `options` vLLM's."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = {"model": model, "kv_transfer_config": transfer_config(target, **settings), **options}
    process = context.Process(target=_run, args=(theirs, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        assert ours.recv() == ("done", None)
        yield EngineProcess(ours)
    finally:
        ours.close()
        process.join(30)
        if process.is_alive():
            process.kill()
            process.join()


def _run(pipe: Connection, arguments: dict[str, Any]) -> None:
    os.environ.update(ENVIRONMENT, VLLM_ENABLE_V1_MULTIPROCESSING="0")
    from vllm import LLM

    try:
        host = _Host(LLM(**{**_DEFAULTS, **arguments}))
    except BaseException as error:
        pipe.send(("failed", repr(error)))
        raise
    pipe.send(("done", None))
    while True:
        try:
            name, call = pipe.recv()
        except (EOFError, ConnectionError):
            host.close()
            return
        try:
            pipe.send(("done", getattr(host, name)(*call)))
        except Exception as error:  # noqa: BLE001  # told to the test
            pipe.send(("failed", repr(error)))


class _Host:
    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self._core = llm.llm_engine.engine_core.engine_core

    def ask(self, asks: Sequence[Ask]) -> list[Answer]:
        prompts = [self._prompt(ask) for ask in asks]
        outputs = self._llm.generate(prompts, [self._sampling(ask) for ask in asks], use_tqdm=False)
        return [
            Answer(
                list(output.outputs[0].token_ids),
                (output.kv_transfer_params or {}).get("kvquilt", {}),
                output.num_cached_tokens,
            )
            for output in outputs
        ]

    def abandon(self, ask: Ask, steps: int) -> None:
        engine = self._llm.llm_engine
        (request,) = self._llm.enqueue([self._prompt(ask)], [self._sampling(ask)], use_tqdm=False)
        for _ in range(steps):
            engine.step()
        engine.abort_request([request])
        while engine.has_unfinished_requests():
            engine.step()

    def steps(self, ask: Ask) -> tuple[int, float]:
        engine, began = self._llm.llm_engine, time.monotonic()
        self._llm.enqueue([self._prompt(ask)], [self._sampling(ask)], use_tqdm=False)
        steps = 0
        while engine.has_unfinished_requests():
            engine.step()
            steps += 1
        return steps, time.monotonic() - began

    def forget(self) -> bool:
        return bool(self._llm.reset_prefix_cache())

    def counters(self) -> dict[str, int]:
        counters: dict[str, int] = self._core.scheduler.connector.tally.snapshot()
        return counters

    def preemptions(self) -> int:
        return sum(m.value for m in self._llm.get_metrics() if m.name == "vllm:num_preemptions")

    def close(self) -> None:
        self._core.shutdown()

    @staticmethod
    def _prompt(ask: Ask) -> Any:
        from vllm.inputs import TokensPrompt

        prompt = TokensPrompt(prompt_token_ids=list(ask.token_ids))
        if ask.salt is not None:
            prompt["cache_salt"] = ask.salt
        return prompt

    @staticmethod
    def _sampling(ask: Ask) -> Any:
        from vllm import SamplingParams

        params = {"kv_transfer_params": {"kvquilt": dict(ask.said)}} if ask.said else {}
        return SamplingParams(temperature=0, max_tokens=ask.max_tokens, ignore_eos=True, extra_args=params)
