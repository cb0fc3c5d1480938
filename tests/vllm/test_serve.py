"""`vllm serve` and the plain OpenAI client, with KV that another process stored from blocks of another size."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

import rag_plain
from kvquilt.sync import Client
from kvquilt.types import Document
from tests.vllm.asking import EXACT, again, saved
from tests.vllm.engines import ENVIRONMENT, EngineProcess, transfer_config
from tests.vllm.prompts import long_prompt, passage, text, token_ids

NAME = "smollm2"


@pytest.fixture(scope="module")
def server(model: str, fingerprint: str, router: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = json.dumps(transfer_config(router, plan_seconds=30.0, load_seconds=30.0))
    flags = {
        "served-model-name": NAME,
        "port": str(port),
        "dtype": "bfloat16",
        "block-size": "64",
        "max-model-len": "4096",
        "max-num-seqs": "4",
        "kv-transfer-config": config,
        "middleware": "kvquilt.integrations.vllm.middleware.CacheHeaders",
    }
    vllm = str(Path(sys.executable).with_name("vllm"))
    command = [vllm, "serve", model, "--enforce-eager", "--enable-prompt-tokens-details"]
    command += [word for name, value in flags.items() for word in (f"--{name}", value)]
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("w") as out:
        process = subprocess.Popen(command, env={**os.environ, **ENVIRONMENT}, stdout=out, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        while not answers(f"{address}/health"):
            assert process.poll() is None, log.read_text()[-3000:]
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310  # our own server
            return bool(response.status == 200)
    except OSError:
        return False


@pytest.fixture
def ask(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none") as client:
        yield client


def test_exact_hits_are_cached_tokens_in_another_process_with_other_blocks(
    engine: EngineProcess, ask: openai.OpenAI, model: str
) -> None:
    prompt = long_prompt(model, 20, 1300)
    plain = text(model, engine.plain(prompt))
    saved(engine, prompt)
    stored = again(engine, prompt, 1024).told["tokens_exact"]
    raw = ask.completions.with_raw_response.create(
        model=NAME, prompt=prompt, max_tokens=12, temperature=0, extra_body={"kv_transfer_params": {"kvquilt": EXACT}}
    )
    response = raw.parse()
    assert response.choices[0].text == plain
    assert response.usage is not None
    assert response.usage.prompt_tokens_details is not None
    assert response.usage.prompt_tokens_details.cached_tokens == stored
    assert raw.headers["x-kvquilt-tokens-exact"] == str(stored)
    assert raw.headers["x-kvquilt-tokens-blended"] == "0"


def test_a_streamed_answer_tells_exact_hits_in_its_last_chunk(
    engine: EngineProcess, ask: openai.OpenAI, model: str
) -> None:
    prompt = long_prompt(model, 21, 600)
    saved(engine, prompt)
    stored = again(engine, prompt, 256).told["tokens_exact"]
    *chunks, last = ask.completions.create(
        model=NAME,
        prompt=prompt,
        max_tokens=2,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"kv_transfer_params": {"kvquilt": EXACT}},
    )
    assert chunks
    assert last.usage is not None
    assert last.usage.prompt_tokens_details is not None
    assert last.usage.prompt_tokens_details.cached_tokens == stored


def test_the_rag_example_answers_from_what_it_prefetched(
    server: str, router: str, capsys: pytest.CaptureFixture[str]
) -> None:
    question = "Which metal is the pendulum rod made of?"
    hits = 0
    for _ in range(2):  # where blending is slower than computing here, the second time has an exact prefix
        rag_plain.main([question, "--router", router, "--vllm", f"{server}/v1", "--tokens", "2"])
        said = capsys.readouterr().out
        assert said.count("prefetched ") == rag_plain.CANDIDATES
        counts = re.search(r"(\d+) tokens in the prompt: (\d+) cached, (\d+) blended", said)
        assert counts is not None
        prompt, cached, blended = map(int, counts.groups())
        assert prompt > cached + blended
        hits += cached + blended
    assert hits > 256


def test_blended_tokens_are_told_apart(ask: openai.OpenAI, server: str, client: Client, model: str) -> None:
    head = token_ids(model, "<|im_start|>user\n")
    asked = token_ids(model, "\nWhat is this about?<|im_end|>\n<|im_start|>assistant\n")
    chosen = [passage(model, number, 260) for number in (1, 4)]
    documents = [Document(f"serve-{number}", tokens) for number, tokens in enumerate(chosen)]
    assert all(not done.failure_reason for done in client.prefetch(documents, shared_prefix=head))
    said = {
        "prefix_tokens": len(head),
        "document_tokens": [len(chosen[1]), len(chosen[0])],
        "extent": "prompt",
        "policy": "none",
    }
    response = ask.completions.create(
        model=NAME,
        prompt=[*head, *chosen[1], *chosen[0], *asked],
        max_tokens=4,
        temperature=0,
        extra_body={"kv_transfer_params": {"kvquilt": said}},
    )
    told = response.model_extra["kv_transfer_params"]["kvquilt"]  # type: ignore[index]
    details = response.usage.prompt_tokens_details  # type: ignore[union-attr]
    assert told["reason"] == ""
    assert told["tokens_blended"] >= len(chosen[0])
    assert details is not None
    assert details.cached_tokens == told["tokens_exact"]
    with urllib.request.urlopen(f"{server}/metrics") as metrics:  # noqa: S310  # our own server
        lines = metrics.read().decode().splitlines()
    (counted,) = [line for line in lines if line.startswith("vllm:kvquilt_tokens_blended_total{")]
    assert float(counted.split()[-1]) >= told["tokens_blended"]


def test_an_unknown_salt_and_a_chat_are_served_as_ever(ask: openai.OpenAI) -> None:
    response = ask.chat.completions.create(
        model=NAME,
        messages=[{"role": "user", "content": "Say hello."}],
        max_tokens=4,
        temperature=0,
        extra_body={"cache_salt": "somebody"},
    )
    assert response.choices[0].message.content
    told = response.model_extra["kv_transfer_params"]["kvquilt"]  # type: ignore[index]
    assert told["reason"] == "unknown_namespace"
