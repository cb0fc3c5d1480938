"""Is loading faster than computing: time to first token both ways, medians."""

from collections.abc import Awaitable, Callable
from statistics import median

from kvquilt.verifying.engine import OpenAIEngine
from kvquilt.verifying.subject import Asked, Subject
from kvquilt.verifying.types import Finding, Outcome, Recommendation, SkippedError, Timing, judged
from kvquilt_codec.types import TokenIds


async def computing(subject: Subject) -> Finding:
    """What the router takes to compute a prompt that nobody knows; and the engine, if there is one."""
    repeats, tokens = _repeats(subject), subject.tokens(subject.options.tokens)
    await subject.blend(subject.text(tokens))  # the first one pays for what no later one does
    asked = [await subject.blend(subject.text(tokens)) for _ in range(repeats)]
    paces = [pace for one in asked if (pace := one.kv.report.prefill_seconds_per_token) is not None]
    took = median(one.seconds for one in asked)
    subject.measured(router_s=took, prefill_s=median(paces) * tokens if paces else took)
    return Finding(Outcome.PASSED, "a prompt is computed", f"{_timing(subject).prefill_s:.3f} s for {tokens} tokens")


async def engine(subject: Subject) -> Finding:
    """What the engine takes to compute a prompt that nobody knows, without kvquilt."""
    url, repeats = subject.options.engine_url, _repeats(subject)
    if not url:
        raise SkippedError(
            "no engine was named: loading is compared with the router's own prefill", "--engine-url http://HOST:PORT"
        )
    tokens = subject.tokens(subject.options.tokens)
    serving = await OpenAIEngine.at(url, subject.options.deadline)
    await serving.ttft(subject.text(tokens))
    took = median([await serving.ttft(subject.text(tokens)) for _ in range(repeats)])
    subject.measured(engine_s=took)
    return Finding(Outcome.PASSED, "the engine answers", f"{took:.3f} s for {tokens} tokens ({serving.model})")


async def exact_faster(subject: Subject) -> Finding:
    """Loading text in its exact context is faster than computing it."""
    repeats = _repeats(subject)
    text = subject.text(subject.tokens(subject.options.tokens))
    await _store(subject, "exact", text, exact=True)

    async def load() -> Asked:
        return await subject.blend(text)

    took = await _loaded(load, repeats)
    subject.measured(exact_s=took)
    return _faster(subject, "exact", took)


async def blended_faster(subject: Subject) -> Finding:
    """Loading text in another context than it was computed in is faster than computing it."""
    repeats, tokens = _repeats(subject), subject.tokens(subject.options.tokens)
    first, second = (subject.text(tokens // 2) for _ in range(2))
    for name, text in (("first", first), ("second", second)):
        await _store(subject, name, text, exact=False)
    report = (await subject.blend(first, second)).kv.report
    if not report.tokens_reused + report.tokens_recomputed:
        reason = report.gate_refusal or ", ".join(sorted({c.miss_reason for c in report.chunks if c.miss_reason}))
        raise SkippedError(
            f"nothing is reused out of its context here ({reason or 'no reason given'})",
            "`kvquilt calibrate` measures what may be; docs/concepts.md, The gate",
        )
    took = await _loaded(lambda: subject.blend(first, second), repeats)
    subject.measured(blended_s=took)
    return _faster(subject, "blended", took)


def recommendation(timing: Timing | None) -> Recommendation:
    """What follows from what was measured."""
    if timing is None or timing.computing_s is None or timing.exact_s is None:
        return Recommendation.UNKNOWN
    if timing.exact_s >= timing.computing_s:
        return Recommendation.OFF
    if timing.blended_s is not None and timing.blended_s < timing.computing_s:
        return Recommendation.ON
    return Recommendation.EXACT_ONLY


async def _store(subject: Subject, name: str, text: TokenIds, *, exact: bool) -> None:
    done = await subject.store(name, text, exact=exact)
    if done.failed:
        raise SkippedError(f"a document could not be stored: {done.failure_reason}", "see `kvquilt status`")


async def _loaded(load: Callable[[], Awaitable[Asked]], repeats: int) -> float:
    await load()
    return median([(await load()).seconds for _ in range(repeats)])


def _faster(subject: Subject, what: str, took: float) -> Finding:
    timing = _timing(subject)
    against = "the engine's own prefill" if timing.engine_s is not None else "the router's own prefill"
    if timing.computing_s is None:
        raise SkippedError("computing was not measured, see above")
    advice = (
        "turn kvquilt off here: computing is faster than loading"
        if what == "exact"
        else "turn blending off here (router.gate= or, by request, max_kl): exact reuse alone pays, if that does"
    )
    got = f"{took:.3f} s, against {timing.computing_s:.3f} s of {against} ({took / timing.computing_s:.2f} of it)"
    return judged(
        took < timing.computing_s, f"loading {timing.tokens} tokens is faster than computing them", got, advice
    )


def _timing(subject: Subject) -> Timing:
    if subject.timing is None:
        raise SkippedError("computing was not measured, see above")
    return subject.timing


def _repeats(subject: Subject) -> int:
    if not subject.options.repeats:
        raise SkippedError("no times were asked for", "--repeats N, above 0")
    return subject.options.repeats
