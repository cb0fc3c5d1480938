"""Does it store, find again, and give back what was stored, bit for bit; also after a restart."""

import asyncio
import tempfile
import time

import numpy as np

from kvquilt.checks import Finding, Outcome, SkippedError, judged, promise
from kvquilt.errors import DeadlineError, KvquiltError, UnavailableError
from kvquilt.types import BlendedKV
from kvquilt.verifying.subject import Subject
from kvquilt_codec.types import DataType, Level

PROBE_TOKENS = 1024
"""Several chunks, which lie on several nodes."""
LEVEL = Level.LOSSLESS.value
_ROUNDING = {DataType.FLOAT32: 1e-3, DataType.BFLOAT16: 0.1, DataType.FLOAT16: 0.03}
"""How far the same KV may be apart, computed in one pass or chunk by chunk. That of other text or at other positions is
about 1 apart."""


async def stores(subject: Subject) -> Finding:
    """A document that nobody knows is computed, then stored."""
    text = subject.text(subject.tokens(PROBE_TOKENS))
    expected = "an unknown document is missed, and stored when it is prefetched"
    advice = "see `kvquilt status`, and `kvquilt why`"
    first = (await subject.blend(text, level=LEVEL)).kv
    if first.report.tokens_computed != len(first.token_ids):
        return Finding(Outcome.FAILED, expected, "text that was never stored was found", "another cache answers")
    done = await subject.store("probe", text, level=LEVEL)
    if done.failed or not done.stored:
        got = f"{done.stored} chunks stored, {done.failed} failed: {done.failure_reason or 'no reason given'}"
        return Finding(Outcome.FAILED, expected, got, advice)
    subject.probe, subject.computed = text, first
    return Finding(Outcome.PASSED, expected, f"{done.tokens} tokens in {done.stored} chunks, {done.stored_bytes} bytes")


async def hits(subject: Subject) -> Finding:
    """What was stored is found, all of it in its exact context."""
    if subject.probe is None:
        raise SkippedError("nothing was stored, see above")
    kv = (await subject.blend(subject.probe, level=LEVEL)).kv
    found = kv.report.tokens_exact
    missed = {chunk.miss_reason for chunk in kv.report.chunks if chunk.miss_reason}
    if found == len(subject.probe):
        subject.loaded = kv
    return judged(
        found == len(subject.probe),
        f"{len(subject.probe)} tokens found in their exact context",
        f"{found}" + (f"; missed: {', '.join(sorted(missed))}" if missed else ""),
        "docs/reference.md, Miss reasons; for deadlines router.stat_deadline and router.fetch_deadline",
    )


async def equal(subject: Subject) -> Finding:
    """What is loaded is the same every time, and what was computed."""
    text, first = subject.stored, subject.loaded
    again = (await subject.blend(text, level=LEVEL)).kv
    if first is not None and again.report.tokens_exact != len(text):
        got = f"{again.report.tokens_exact} of {len(text)} tokens found: the others were computed again"
        return Finding(Outcome.FAILED, promise(equal), got, "store or memory is damaged: `kvquilt repair`")
    return _compared(subject, again, first)


async def restart(subject: Subject) -> Finding:
    """What was stored is still there after a restart."""
    text, first = subject.stored, subject.loaded
    command = subject.options.restart_command
    kinds = sorted({node.store for node in subject.known.nodes if node.reachable})
    expected = "what was stored is found after a restart"
    if not command:
        if kinds == ["memory"]:
            got = "all nodes keep objects in memory: a restart loses them"
            return Finding(Outcome.FAILED, expected, got, "node.store=file, redis or object; docs/stores.md")
        raise SkippedError(
            f"no restart was asked for; objects are in: {', '.join(kinds) or 'unknown stores'}",
            "--restart-command 'COMMAND' restarts router and nodes here; with --node, what is on them is read",
        )
    problem = await _restarted(subject, command)
    if problem:
        return Finding(Outcome.FAILED, expected, problem, "start it again by hand; what this run stored expires by TTL")
    again = (await subject.blend(text, level=LEVEL)).kv
    if again.report.tokens_exact != len(text):
        got = f"{again.report.tokens_exact} of {len(text)} tokens found after {command!r}"
        return Finding(Outcome.FAILED, expected, got, "use a store that lasts (node.store), and the same node.path")
    return _compared(subject, again, first)


def _compared(subject: Subject, again: BlendedKV, first: BlendedKV | None) -> Finding:
    tokens = len(subject.stored)
    expected = "loaded KV is bit for bit the same each time, and within rounding of what was computed"
    if first is None or subject.computed is None:
        raise SkippedError("nothing was stored and found, see above")
    if not _same(first, again, tokens):
        return Finding(
            Outcome.FAILED, expected, "it differs from load to load", "store or memory is damaged: `kvquilt repair`"
        )
    distance = _distance(subject.computed, again, tokens)
    limit = _ROUNDING[again.layout.data_type]
    got = f"the same; {distance:.1e} from what was computed"
    return judged(distance <= limit, expected, got, "the model's code or weights changed: restart the router")


def _same(first: BlendedKV, again: BlendedKV, tokens: int) -> bool:
    """Whether two blends begin with the same bytes."""
    return len(first.layers) == len(again.layers) and all(
        one[:tokens].tobytes() == two[:tokens].tobytes()
        for kv, other in zip(first.layers, again.layers, strict=True)
        for one, two in ((kv.keys, other.keys), (kv.values, other.values))
    )


def _distance(first: BlendedKV, again: BlendedKV, tokens: int) -> float:
    """Relative L2 distance of the tensor that differs most."""
    worst = 0.0
    for kv, other in zip(first.layers, again.layers, strict=True):
        for one, two in ((kv.keys, other.keys), (kv.values, other.values)):
            expected, got = one[:tokens].astype(np.float64), two[:tokens].astype(np.float64)
            norm = float(np.linalg.norm(expected)) or 1.0
            worst = max(worst, float(np.linalg.norm(got - expected)) / norm)
    return worst


async def _restarted(subject: Subject, command: str) -> str:
    """Run the command and wait for the router and its nodes; what went wrong, or nothing."""
    limit = subject.options.restart_seconds
    ends = time.monotonic() + limit
    with tempfile.TemporaryFile("w+b") as log:  # a pipe would stay open in what the command leaves running
        process = await asyncio.create_subprocess_shell(
            command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            code = await asyncio.wait_for(process.wait(), limit)
        except TimeoutError:
            process.kill()
            return f"{command!r} did not end within {limit:g} s"
        if code:
            log.seek(0)
            return f"{command!r} ended with {code}: {log.read()[-500:].decode(errors='replace').strip()}"
    last = "it did not answer"
    while time.monotonic() < ends:
        try:
            subject.status = await subject.client.status(deadline=max(0.1, min(5.0, ends - time.monotonic())))
            lost = [node.target for node in subject.status.nodes if not node.reachable]
            if not lost:
                return ""
            last = f"nodes do not answer: {', '.join(lost)}"
        except (UnavailableError, DeadlineError) as error:
            last = str(error)
        except KvquiltError as error:
            return str(error)
        await asyncio.sleep(0.2)
    return f"not back {limit:g} s after {command!r}: {last}"
