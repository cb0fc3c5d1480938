"""vLLM, twice: a plain engine and one with kvquilt's connector, each in a process of its own, asked in turn."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvquilt_codec.errors import UnavailableError
from kvquilt_router.engine.model import resolve
from ttft.types import LIKELIEST, FirstToken, RagPrompt, Shot

WORKER = Path(__file__).with_name("vllm_worker.py")
PYTHON = Path(__file__).parents[2] / ".venv-vllm" / "bin" / "python"
CONTEXT_TOKENS = 8192
PATIENCE = 600
NOT_YET = ("fingerprint_not_computed_yet", "tokenizer_not_loaded_yet")


class VllmEngine:
    """See `Engine`.

    Args:
        router: its address; the connector plans at the start to find it there.
        dtype: that the engine computes in.
        threads: of it.
        python: of an environment with vLLM and kvquilt.

    Raises:
        UnavailableError: there is no such environment, or an engine ended.
    """

    name = "vllm"

    def __init__(self, router: str, dtype: str, threads: int, python: Path = PYTHON) -> None:
        if not python.is_file():
            raise UnavailableError(f"expected an environment with vLLM; {python} is not there: make test-vllm makes it")
        common = {
            "model": str(resolve("smollm2")),
            "dtype": dtype,
            "enforce_eager": True,
            "max_model_len": CONTEXT_TOKENS,
            "max_logprobs": LIKELIEST,
        }
        connector = {
            "kv_connector": "KvquiltConnector",
            "kv_connector_module_path": "kvquilt.integrations.vllm",
            "kv_role": "kv_both",
            "kv_load_failure_policy": "recompute",
            "kv_connector_extra_config": {"target": router},
        }
        self._plain = _Process(python, common, threads)
        try:
            self._kvquilt = _Process(python, common | {"kv_transfer_config": connector}, threads)
        except BaseException:
            self._plain.close()
            raise
        try:
            self._wait_until_known()
        except BaseException:
            self.close()
            raise

    def off(self, prompt: RagPrompt) -> Shot:
        answer = self._plain.ask({"token_ids": prompt.token_ids, "kv_transfer_params": {}})
        return Shot(answer["ttft_s"], FirstToken.of_pairs(answer["log_probs"]), {"computed": len(prompt.token_ids)})

    def on(self, prompt: RagPrompt, extent: str = "auto", *, save: bool = False, **options: Any) -> Shot:
        prefix, *documents, _ = map(len, prompt.tokens)
        said = {"prefix_tokens": prefix, "document_tokens": documents, "extent": extent, "save": save, **options}
        answer = self._kvquilt.ask({"token_ids": prompt.token_ids, "kv_transfer_params": {"kvquilt": said}})
        report = (answer["kv_transfer_params"] or {}).get("kvquilt", {})
        exact, blended = report.get("tokens_exact", 0), report.get("tokens_blended", 0)
        tokens = {"exact": exact, "reused": blended, "computed": len(prompt.token_ids) - exact - blended}
        return Shot(answer["ttft_s"], FirstToken.of_pairs(answer["log_probs"]), tokens, report.get("reason", ""))

    def close(self) -> None:
        self._plain.close()
        self._kvquilt.close()

    def _wait_until_known(self) -> None:
        """Until the connector knows which model it is: it reads the weights for that, beside whatever is measured."""
        until = time.monotonic() + PATIENCE
        while self.on(RagPrompt((), "", ((), tuple(range(16))))).note in NOT_YET:
            if time.monotonic() > until:
                raise UnavailableError(f"expected the connector to know its model within {PATIENCE} s; it does not")
            time.sleep(1)


class _Process:
    """One engine."""

    def __init__(self, python: Path, arguments: Mapping[str, Any], threads: int) -> None:
        environment = os.environ | {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_NO_USAGE_STATS": "1",
            "OMP_NUM_THREADS": str(threads),
        }
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed with the process
        self._process = subprocess.Popen(  # noqa: S603  our own script
            [str(python), str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            text=True,
        )
        try:
            self.ask(arguments)
        except BaseException:
            self.close()
            raise

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """One line for another.

        Raises:
            UnavailableError: the process ended; the message has its last words.
        """
        said = ""
        if self._process.stdin is not None and self._process.stdout is not None:
            try:
                self._process.stdin.write(json.dumps(question) + "\n")
                self._process.stdin.flush()
                said = self._process.stdout.readline()
            except BrokenPipeError:
                said = ""
        if not said:
            self._log.seek(0)
            raise UnavailableError(f"expected an answer from vLLM; it ended: {self._log.read()[-3000:]}")
        answer: dict[str, Any] = json.loads(said)
        return answer

    def close(self) -> None:
        """End it. Its end of the pipe is what ends its loop."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()
