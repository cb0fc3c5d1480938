"""Lines of a server's log: without secrets, bounded in number, one object or one line each, with their request."""

import base64
import io
import json
import logging
import re
import string
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvquilt_codec.errors import UnavailableError
from kvquilt_rpc import requests, spans
from kvquilt_rpc.logs import LogSettings, logging_to
from kvquilt_rpc.logs.handler import LineHandler
from kvquilt_rpc.logs.limiting import BURST_SECONDS, SHARE, LineLimit
from kvquilt_rpc.logs.lines import MAX_MESSAGE, MAX_TRACE, as_json, as_text
from kvquilt_rpc.logs.redaction import Redactor
from tests.tracing import tracing

log = logging.getLogger("kvquilt_rpc.something")

ASCII = string.ascii_letters + string.digits
SECRETS = st.text(ASCII + "-_.!$+", min_size=8, max_size=60)
AROUND = st.text(max_size=60)


def record(message: str, *args: object, level: int = logging.INFO, line: int = 1, **more: object) -> logging.LogRecord:
    made = logging.LogRecord("kvquilt_rpc.x", level, "x.py", line, message, args, None)
    made.__dict__.update(more)
    return made


def shape(secret: str, name: str) -> str:
    """How a secret that nobody announced turns up in the messages of others."""
    return {
        "url": f"Error connecting to redis://user:{secret}@cache.internal:6379/0",
        "url without user": f"rediss://:{secret}@cache.internal",
        "bearer": f"metadata: authorization: Bearer {secret}",
        "basic": f"Authorization: Basic {base64.b64encode(secret.encode()).decode()}",
        "setting": f"node.object_secret={secret} is not accepted",
        "quoted setting": f'{{"password": "{secret}", "x": 1}}',
        "query": f"GET /o?X-Amz-Signature={secret}&y=1",
        "pem": f"-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----",
        "cut pem": f"-----BEGIN EC PRIVATE KEY-----\n{secret}",
    }[name]


SHAPES = ["url", "url without user", "bearer", "basic", "setting", "quoted setting", "query", "pem", "cut pem"]


@pytest.mark.parametrize("name", SHAPES)
@given(secret=SECRETS, before=AROUND, after=AROUND)
def test_what_looks_like_a_secret_is_in_no_line(name: str, secret: str, before: str, after: str) -> None:
    text = f"{before} {shape(secret, name)} {after}"
    for line in (as_json(record("%s", text), 0), as_text(record("%s", text), 0)):
        shown = line.replace(before, "").replace(after, "")
        assert secret not in shown
        assert base64.b64encode(secret.encode()).decode() not in shown


@given(st.dictionaries(st.sampled_from(["sub", "exp", "ns"]), st.text(max_size=20), min_size=1), AROUND)
def test_a_signed_token_is_in_no_line_however_it_is_mentioned(claims: dict[str, str], around: str) -> None:
    parts = [json.dumps({"alg": "EdDSA", "typ": "JWT"}), json.dumps(claims), "signature" * 4]
    token = ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)
    line = Redactor()(f"{around} {token} {around}")
    assert not any(part in line for part in token.split("."))


@given(st.lists(st.text(min_size=4, max_size=60), min_size=1, max_size=5), AROUND)
def test_a_secret_that_is_known_is_hidden_wherever_it_is(secrets: list[str], around: str) -> None:
    redactor = Redactor()
    known = [secret.strip() for secret in secrets if len(secret.strip()) >= 4]
    for secret in secrets:
        redactor.hide(secret)
    line = redactor(" and ".join(known))
    assert not any(secret in line.replace("[hidden]", "").replace(" and ", "") for secret in known)


@given(st.text(string.ascii_letters + " .,é世", min_size=70, max_size=400), st.sampled_from("'\""))
def test_a_prompt_that_another_package_quotes_is_hidden(text: str, quote: str) -> None:
    assert text not in Redactor()(f"expected a number; got {quote}{text}{quote}")


@given(st.lists(st.integers(0, 200_000), min_size=8, max_size=60))
def test_token_ids_are_hidden(ids: list[int]) -> None:
    assert Redactor()(f"ids {ids} end") == "ids [[numbers]] end"


def test_what_an_operator_needs_stays() -> None:
    for said in (
        "node 10.0.0.1:7411 does not answer: it is left alone for a while",
        "expected Redis at cache.internal:6379 to be reachable; got Error 111",
        "refused /kvquilt.v1.RouterService/Blend of ipv4:10.0.0.1:4711: expected a bearer token (token_missing)",
        "KV of 1200 tokens was not saved: tokens=1200 after 0.5 s",
        "chunk 0123456789abcdef missed: expected a checksum of 12, 13",
        "[Errno 28] No space left on device: '/var/lib/kvquilt/blobs/ab/abcdef.kvq'",
        "traces go to https://collector.monitoring.svc:4317",
    ):
        assert Redactor()(said) == said
    assert Redactor()(f"object {'0123456789abcdef' * 4} is damaged") == "object 0123456789abcdef... is damaged"


@given(st.text(), st.text(max_size=30))
def test_a_line_is_one_line_whatever_a_message_holds(text: str, namespace: str) -> None:
    requests._CURRENT.set(requests.Request("0" * 32, namespace, ""))
    line = as_json(record("%s", text), 3)
    assert "\n" not in line
    found = json.loads(line)
    assert (found["level"], found["dropped"], found["request_id"]) == ("info", 3, "0" * 32)
    assert len(as_text(record("%s", text), 0).splitlines()) == 1
    assert len(line) < 20 * MAX_MESSAGE


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001
        return caught


def test_a_stack_trace_is_bounded_without_secrets_and_in_one_object() -> None:
    error = raised(UnavailableError("x " * MAX_TRACE + " redis://u:hunter22@h"))
    made = record("it failed")
    made.exc_info = (type(error), error, error.__traceback__)
    found = json.loads(as_json(made, 0))["error"]
    assert (found["type"], found["reason"]) == ("UnavailableError", "unavailable")
    assert len(found["trace"]) <= MAX_TRACE + 3
    assert "hunter22" not in found["trace"]
    assert "redis://[hidden]@h" in found["trace"]
    assert "test_logs.py" in json.loads(as_json(_recorded(ValueError("short")), 0))["error"]["trace"]


def _recorded(error: BaseException) -> logging.LogRecord:
    caught, made = raised(error), record("it failed")
    made.exc_info = (type(caught), caught, caught.__traceback__)
    return made


def test_a_line_names_its_trace_and_the_beginning_of_an_objects_key() -> None:
    with tracing(), spans.span("kvquilt.find"):
        ids = spans.identity()
        found = json.loads(as_json(record("x", key="ab" * 32), 0))
    assert ids == (found["trace_id"], found["span_id"])
    assert found["object"] == "ab" * 8


@given(
    rate=st.integers(1, 50),
    events=st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.floats(0, 0.5)), max_size=300),
)
def test_lines_are_bounded_and_what_is_dropped_is_counted_to_the_last(
    rate: int, events: list[tuple[int, bool, float]]
) -> None:
    limit, now = LineLimit(rate, logging.ERROR), 0.0
    written: dict[bool, list[float]] = {False: [], True: []}
    lines = counted = 0
    for line, urgent, wait in events:
        now += wait
        level = logging.ERROR if urgent else logging.INFO
        dropped = limit.admit(("x", line, level), "template", now)
        if dropped is not None:
            written[urgent].append(now)
            lines += 1
            counted += dropped
    counted += sum(dropped for _, _, dropped in limit.overdue(now, after=0.0))
    assert lines + counted == len(events)
    for moments in written.values():
        for begin in moments:
            assert sum(begin <= moment < begin + 1 for moment in moments) <= 2 * rate


def test_one_place_that_floods_the_log_leaves_room_for_others_and_for_errors() -> None:
    limit = LineLimit(100, logging.ERROR)
    flood = [limit.admit(("store", 1, logging.WARNING), "down: %s", 0.0) for _ in range(10_000)]
    assert sum(line is not None for line in flood) == 100 / SHARE * BURST_SECONDS
    assert limit.admit(("other", 1, logging.WARNING), "x", 0.0) == 0
    for place in range(1000):
        limit.admit(("many", place, logging.WARNING), "x", 0.0)
    assert limit.admit(("other", 2, logging.WARNING), "x", 0.0) is None, "a second has no more lines"
    assert limit.admit(("other", 1, logging.ERROR), "x", 0.0) == 0
    assert limit.admit(("store", 1, logging.WARNING), "down: %s", 1.0) == 10_000 - 50


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    with io.StringIO() as opened:
        yield opened


def test_dropped_lines_are_told_when_their_place_falls_silent_and_at_the_end(stream: io.StringIO) -> None:
    moments = iter([*[0.0] * 60, 30.0, 31.0])
    handler = LineHandler(stream, as_json, 100, clock=lambda: next(moments))
    for _ in range(60):
        handler.handle(record("the store is down: %s", "x", level=logging.WARNING, line=7))
    handler.handle(record("something else", line=8))
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["message"] for line in found[:50]] == ["the store is down: x"] * 50
    assert (found[50]["message"], found[50]["dropped"]) == ("dropped lines like: the store is down: %s", 10)
    assert found[51]["message"] == "something else"
    handler.close()


def test_a_store_that_is_down_fills_no_disk(stream: io.StringIO) -> None:
    with logging_to(LogSettings(format="json", lines_per_second=10), stream):
        threads = [threading.Thread(target=_flood) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(found) < 200
    assert sum(line.get("dropped", 0) + ("dropped lines" not in line["message"]) for line in found) == 4000


def _flood() -> None:
    for number in range(1000):
        log.warning("the store is down: attempt %d", number)


def test_levels_are_of_our_lines_and_others_say_nothing_below_info(stream: io.StringIO) -> None:
    other = logging.getLogger("redis.something")
    with logging_to(LogSettings(format="json", level="debug"), stream):
        log.debug("ours")
        other.debug("AUTH password")
        other.info("theirs")
    with logging_to(LogSettings(format="json", level="error"), stream):
        log.warning("not this one")
        other.warning("nor this one")
        log.error("this one")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["ours", "theirs", "this one"]


def test_logging_is_as_it_was_before_a_server_ran(stream: io.StringIO) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level, logging.getLogger("kvquilt").level)
    with logging_to(LogSettings(), stream):
        assert root.handlers != before[0]
    assert (list(root.handlers), root.level, logging.getLogger("kvquilt").level) == before


def test_a_record_that_cannot_be_written_says_so_and_not_what_it_was(stream: io.StringIO) -> None:
    class Secret:
        def __str__(self) -> str:
            raise ValueError("hunter22")

    handler = LineHandler(stream, as_json, 100)
    handler.handle(record("%s %s", Secret(), "hunter22"))
    handler.handle(record("%d %d", "hunter22"))
    found = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert found == ["a line could not be written"] * 2
    assert "hunter22" not in stream.getvalue()


def test_text_lines_carry_the_request_too(stream: io.StringIO) -> None:
    requests.begin()
    requests.learn(namespace="team-a", model="ab" * 32)
    with logging_to(LogSettings(), stream):
        log.warning("look-up failed: %s", "late\n2026-01-01 ERROR kvquilt: all is lost")
    (line,) = stream.getvalue().splitlines()
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} WARNING kvquilt_rpc\.something: "
        r"look-up failed: late\\n2026.* all is lost "
        r"\[request_id=[0-9a-f]{32} namespace=team-a model=abababababababab\]",
        line,
    )
