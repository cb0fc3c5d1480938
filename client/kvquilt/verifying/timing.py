"""Is loading faster than computing: time to first token each way, by turns, medians."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from statistics import median

from kvquilt.calibrating import CALIBRATE_ANEW, UNHEARD, calibrate_command
from kvquilt.checks import Finding, Outcome, SkippedError, judged
from kvquilt.errors import KvquiltError
from kvquilt.types import BlendReport
from kvquilt.verifying.engine import OpenAIEngine
from kvquilt.verifying.subject import Subject
from kvquilt.verifying.types import Recommendation, Timing
from kvquilt_codec.types import TokenIds

Way = Callable[[], Awaitable[float]]
"""Makes one request; the seconds until its first token could be computed, or was."""
_MENDED = {
    "withdrawals_unknown": UNHEARD,
    "withdrawn": f"`kvquilt gate show` tells what audits disproved; {CALIBRATE_ANEW}",
}
"""What to do about a gate's refusal, where measuring for the first time is not it."""


@dataclass(slots=True, eq=False)
class Measured:
    """What was measured of each way, and why others were not.

    Attributes:
        seconds: of each request by the name of its way.
        paces: seconds per token that the router's model takes for a prefill, after each prompt that it computed.
        problems: what kept a way from being measured.
        engine: the model that the engine serves.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    paces: list[float] = field(default_factory=list)
    problems: dict[str, Exception] = field(default_factory=dict)
    engine: str = ""

    def of(self, way: str) -> float:
        """The median.

        Raises:
            KvquiltError, SkippedError: what kept it from being measured.
        """
        if way in self.problems:
            raise self.problems[way]
        return median(self.seconds[way])


async def computing(subject: Subject) -> Finding:
    """What the router takes to compute a prompt that nobody knows; all other ways are measured with it, by turns."""
    if not subject.options.repeats:
        raise SkippedError("no times were asked for", "--repeats N, above 0")
    measured = await _measured(subject)
    tokens = subject.tokens(subject.options.tokens)
    took = measured.of("router")
    known = {way: measured.of(way) for way in measured.seconds if way not in measured.problems}
    subject.timed = measured
    subject.timing = Timing(
        tokens,
        subject.options.repeats,
        exact_s=known.get("exact"),
        blended_s=known.get("blended"),
        router_s=took,
        prefill_s=median(measured.paces) * tokens if measured.paces else took,
        engine_s=known.get("engine"),
    )
    return Finding(Outcome.PASSED, "a prompt is computed", f"{subject.timing.prefill_s:.3f} s for {tokens} tokens")


async def engine(subject: Subject) -> Finding:
    """What the engine takes to compute a prompt that nobody knows, without kvquilt."""
    measured, timing = _timed(subject)
    took = measured.of("engine")
    return Finding(Outcome.PASSED, "the engine answers", f"{took:.3f} s for {timing.tokens} tokens ({measured.engine})")


async def exact_faster(subject: Subject) -> Finding:
    """Loading text in its exact context is faster than computing it."""
    return _faster(subject, "exact", "turn kvquilt off here: computing is faster than loading")


async def blended_faster(subject: Subject) -> Finding:
    """Loading text in another context than it was computed in is faster than computing it."""
    return _faster(
        subject,
        "blended",
        "turn blending off here (router.gate= or, by request, max_kl): use exact reuse, if that pays",
    )


def recommendation(timing: Timing | None) -> Recommendation:
    """What follows from what was measured."""
    if timing is None or timing.computing_s is None or timing.exact_s is None:
        return Recommendation.UNKNOWN
    if timing.exact_s >= timing.computing_s:
        return Recommendation.OFF
    if timing.blended_s is not None and timing.blended_s < timing.computing_s:
        return Recommendation.ON
    return Recommendation.EXACT_ONLY


async def _measured(subject: Subject) -> Measured:
    measured = Measured()
    ways: dict[str, Way] = {}
    for name, prepare in (("router", _router), ("engine", _engine), ("exact", _exact), ("blended", _blended)):
        try:
            ways[name] = await prepare(subject, measured)
            await ways[name]()  # the first one pays for what no later one does
        except (KvquiltError, SkippedError) as problem:
            measured.problems[name] = problem
    measured.paces.clear()
    for _ in range(subject.options.repeats):
        for name, way in ways.items():
            if name not in measured.problems:
                try:
                    measured.seconds.setdefault(name, []).append(await way())
                except KvquiltError as problem:
                    measured.problems[name] = problem
    return measured


async def _router(subject: Subject, measured: Measured) -> Way:
    tokens = subject.tokens(subject.options.tokens)

    async def compute() -> float:
        asked = await subject.blend(subject.text(tokens))
        if (pace := asked.kv.report.prefill_seconds_per_token) is not None:
            measured.paces.append(pace)
        return asked.seconds

    return compute


async def _engine(subject: Subject, measured: Measured) -> Way:
    if not subject.options.engine_url:
        raise SkippedError(
            "no engine was named: loading is compared with the router's own prefill", "--engine-url http://HOST:PORT"
        )
    tokens = subject.tokens(subject.options.tokens)
    serving = await OpenAIEngine.at(subject.options.engine_url, subject.options.deadline)
    measured.engine = serving.model
    return lambda: serving.ttft(subject.text(tokens))


async def _exact(subject: Subject, _: Measured) -> Way:
    text = subject.text(subject.tokens(subject.options.tokens))
    await _store(subject, "exact", text, exact=True)
    return lambda: _loading(subject, text)


async def _blended(subject: Subject, _: Measured) -> Way:
    tokens = subject.tokens(subject.options.tokens)
    first, second = (subject.text(count) for count in (tokens // 2, tokens - tokens // 2))
    for name, text in (("first", first), ("second", second)):
        await _store(subject, name, text, exact=False)
    report = (await subject.blend(first, second)).kv.report
    if not report.tokens_reused + report.tokens_recomputed:
        measured = (
            f"`{calibrate_command(subject.model.layout.data_type)}` measures what may be; docs/concepts.md, The gate"
        )
        raise SkippedError(
            f"nothing is reused out of its context here ({report.gate_refusal or _missed(report)})",
            _MENDED.get(report.gate_refusal, measured),
        )
    return lambda: _loading(subject, first, second)


async def _loading(subject: Subject, *texts: TokenIds) -> float:
    return (await subject.blend(*texts)).seconds


async def _store(subject: Subject, name: str, text: TokenIds, *, exact: bool) -> None:
    done = await subject.store(name, text, exact=exact)
    if done.failed:
        raise SkippedError(f"a document could not be stored: {done.failure_reason}", "see `kvquilt status`")


def _missed(report: BlendReport) -> str:
    return ", ".join(sorted({chunk.miss_reason for chunk in report.chunks if chunk.miss_reason})) or "no reason given"


def _faster(subject: Subject, way: str, advice: str) -> Finding:
    measured, timing = _timed(subject)
    took = measured.of(way)
    against = "the engine's own prefill" if timing.engine_s is not None else "the router's own prefill"
    if timing.computing_s is None:
        raise SkippedError("computing was not measured, see above")
    got = f"{took:.3f} s, against {timing.computing_s:.3f} s of {against} ({took / timing.computing_s:.2f} of it)"
    expected = f"loading {timing.tokens} tokens is faster than computing them"
    return judged(took < timing.computing_s, expected, got, advice)


def _timed(subject: Subject) -> tuple[Measured, Timing]:
    if subject.timed is None or subject.timing is None:
        raise SkippedError("nothing was timed, see above", "--repeats N, above 0")
    return subject.timed, subject.timing
