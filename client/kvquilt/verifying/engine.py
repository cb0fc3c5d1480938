"""The engine's own time to first token, over its OpenAI-compatible interface (vLLM's takes prompts as token ids)."""

import asyncio
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from kvquilt.errors import BadRequestError, DeadlineError, IntegrityError, UnavailableError
from kvquilt_codec.types import TokenIds

MAX_ANSWER_BYTES = 1 << 20
WITHOUT_KVQUILT = {"kvquilt": {"off": True}}
"""For the request's `kv_transfer_params`: the connector leaves it alone, and saves nothing of it."""


@dataclass(frozen=True, slots=True)
class OpenAIEngine:
    """A server of completions.

    Attributes:
        url: without the path.
        model: that it serves.
        deadline: seconds a request may take.
    """

    url: str
    model: str
    deadline: float

    @classmethod
    async def at(cls, url: str, deadline: float) -> "OpenAIEngine":
        """The server at a URL, with the first model that it lists.

        Raises:
            BadRequestError: no URL of HTTP.
            UnavailableError, DeadlineError: nobody answers, or not in time.
            IntegrityError: what answers is no such server.
        """
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise BadRequestError(f"expected a URL like http://127.0.0.1:8000; got {url!r}")
        base = url.rstrip("/").removesuffix("/v1")
        answer = await asyncio.to_thread(_got, urllib.request.Request(f"{base}/v1/models"), deadline)  # noqa: S310  checked above
        try:
            return cls(base, str(json.loads(answer)["data"][0]["id"]), deadline)
        except (ValueError, KeyError, IndexError, TypeError):
            raise IntegrityError(f"expected a list of models at {base}/v1/models; got {answer[:80]!r}") from None

    async def ttft(self, prompt: TokenIds) -> float:
        """Seconds to the first token after a prompt, without kvquilt.

        Raises:
            As `at`.
        """
        body = {
            "model": self.model,
            "prompt": prompt.tolist(),
            "max_tokens": 1,
            "temperature": 0,
            "stream": True,
            "kv_transfer_params": WITHOUT_KVQUILT,
        }
        request = urllib.request.Request(  # noqa: S310  of the URL that was checked
            f"{self.url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        return await asyncio.to_thread(_first_token, request, self.deadline)


def _got(request: urllib.request.Request, deadline: float) -> bytes:
    with _opened(request, deadline) as answer:
        data: bytes = answer.read(MAX_ANSWER_BYTES)
        return data


def _first_token(request: urllib.request.Request, deadline: float) -> float:
    started = time.perf_counter()
    with _opened(request, deadline) as answer:
        read = 0
        while line := answer.readline(MAX_ANSWER_BYTES):
            if line.startswith(b"data:") and b"[DONE]" not in line:
                took = time.perf_counter() - started
                answer.read(MAX_ANSWER_BYTES)  # it is a short answer; closing early would abort the request
                return took
            read += len(line)
            if read > MAX_ANSWER_BYTES:
                break
    raise IntegrityError(f"expected a stream of completions from {request.full_url}; got none")


def _opened(request: urllib.request.Request, deadline: float) -> Any:
    try:
        return urllib.request.urlopen(request, timeout=deadline)  # noqa: S310  of the URL that was checked
    except urllib.error.HTTPError as error:
        text = error.read(500).decode(errors="replace")
        raise BadRequestError(f"expected an answer of {request.full_url}; got {error.code}: {text}") from None
    except TimeoutError:
        raise DeadlineError(f"expected an answer of {request.full_url} within {deadline:g} s; none came") from None
    except OSError as error:
        raise UnavailableError(f"expected a server at {request.full_url}; {error}: start it (vllm serve)") from None
