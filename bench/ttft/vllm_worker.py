"""vLLM in a process of its own, in the environment of `make test-vllm`: a prompt a line, its first token a line.

Reads JSON lines from standard input: first the arguments of `LLM`, then prompts. It imports nothing of the benchmark.
"""

import json
import os
import sys
import time
from typing import Any


def main() -> None:
    # vLLM writes to standard output too: answers have it for themselves.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    import vllm

    arguments = json.loads(sys.stdin.readline())
    llm = vllm.LLM(**arguments)
    likeliest = arguments["max_logprobs"]
    print(json.dumps({"vllm": vllm.__version__}), file=answers)
    for line in sys.stdin:
        print(json.dumps(_answer(vllm, llm, json.loads(line), likeliest)), file=answers)


def _answer(vllm: Any, llm: Any, asked: dict[str, Any], likeliest: int) -> dict[str, Any]:
    # Nothing of earlier prompts: what is found is the cache's.
    llm.reset_prefix_cache()
    params = vllm.SamplingParams(
        max_tokens=1,
        temperature=0.0,
        logprobs=likeliest,
        detokenize=False,
        extra_args={"kv_transfer_params": asked["kv_transfer_params"]},
    )
    started = time.perf_counter()
    output = llm.generate({"prompt_token_ids": asked["token_ids"]}, params, use_tqdm=False)[0]
    seconds = time.perf_counter() - started
    return {
        "ttft_s": seconds,
        "log_probs": {str(token): found.logprob for token, found in output.outputs[0].logprobs[0].items()},
        "kv_transfer_params": output.kv_transfer_params,
    }


if __name__ == "__main__":
    main()
