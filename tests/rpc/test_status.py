"""Errors over a real wire: the class, the message and the reason arrive, and nothing that must not be seen."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, wrappers_pb2
from google.rpc import error_details_pb2, status_pb2

from kvquilt_codec import errors
from kvquilt_codec.errors import KvquiltError
from kvquilt_rpc import status
from kvquilt_rpc.status import Context, from_rpc_error

DEADLINE = 20.0
SERVICE = "kvquilt.tests.Failing"
PRIVATE = "/home/somebody/private.txt"


def all_errors(kind: type[KvquiltError] = KvquiltError) -> list[type[KvquiltError]]:
    """The tree, whatever is added to it; kinds of a component's own arrive as what they are kinds of."""
    own = [kind] if kind.__module__ == errors.__name__ else []
    return [*own, *(one for child in kind.__subclasses__() for one in all_errors(child))]


class Failing:
    """Raises, or answers by hand, what the test puts into `failure`; streams `before` items first."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.details: bytes | str | None = None
        self.code = grpc.StatusCode.DATA_LOSS
        self.before = 0
        self.closed = asyncio.Event()

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure

    @status.unary
    async def one(self, request: bytes, context: Context) -> bytes:
        self._fail()
        return b"fine: " + request

    @status.streaming
    async def many(self, request: bytes, context: Context) -> AsyncGenerator[bytes, None]:
        try:
            for _ in range(self.before):
                yield request
            self._fail()
        finally:
            self.closed.set()

    @status.unary
    async def collect(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        received = [request async for request in requests]
        self._fail()
        return b"".join(received)

    async def by_hand(self, request: bytes, context: Context) -> bytes:
        key = "grpc-status-details-bin" if isinstance(self.details, bytes) else "x-something-else"
        await context.abort(self.code, "by hand", () if self.details is None else ((key, self.details),))
        return b""


class Caller:
    """A service and a channel to it. Every call reads the whole answer."""

    def __init__(self, service: Failing, channel: grpc.aio.Channel) -> None:
        self.service = service
        self.channel = channel
        self.items: list[bytes] = []

    async def one(self) -> list[bytes]:
        return [await self.channel.unary_unary(f"/{SERVICE}/One")(b"request", timeout=DEADLINE)]

    async def many(self) -> list[bytes]:
        self.items.clear()
        async for item in self.channel.unary_stream(f"/{SERVICE}/Many")(b"item", timeout=DEADLINE):
            self.items.append(item)
        return self.items

    async def collect(self) -> list[bytes]:
        return [await self.channel.stream_unary(f"/{SERVICE}/Collect")(iter([b"a", b"b"]), timeout=DEADLINE)]

    async def by_hand(self) -> list[bytes]:
        return [await self.channel.unary_unary(f"/{SERVICE}/ByHand")(b"", timeout=DEADLINE)]

    async def failed(self, method: str) -> KvquiltError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(self, method)()
        return from_rpc_error(caught.value)


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    service = Failing()
    handlers: dict[str, Any] = {
        "One": grpc.unary_unary_rpc_method_handler(service.one),
        "Many": grpc.unary_stream_rpc_method_handler(service.many),
        "Collect": grpc.stream_unary_rpc_method_handler(service.collect),
        "ByHand": grpc.unary_unary_rpc_method_handler(service.by_hand),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Caller(service, channel)
    await server.stop(0)


methods = pytest.mark.parametrize("method", ["one", "many", "collect"])


async def test_without_an_error_the_guards_change_nothing(caller: Caller) -> None:
    caller.service.before = 3
    assert await caller.one() == [b"fine: request"]
    assert await caller.many() == [b"item"] * 3
    assert await caller.collect() == [b"ab"]


@methods
@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
async def test_every_error_of_the_tree_arrives_as_itself(caller: Caller, kind: type[KvquiltError], method: str) -> None:
    for reason in (None, "a_reason_of_its_own"):
        caller.service.failure = kind("expected this; got that: do so", reason=reason)
        error = await caller.failed(method)
        assert type(error) is kind
        assert str(error) == "expected this; got that: do so"
        assert error.reason == (reason or kind.reason)


async def test_an_error_after_some_items_arrives_after_them(caller: Caller) -> None:
    caller.service.before = 2
    caller.service.failure = errors.IntegrityError("the rest is damaged", reason="checksum")
    assert (await caller.failed("many")).reason == "checksum"
    assert caller.items == [b"item"] * 2


class SubtreeError(errors.CapacityError):
    """An error of a component's own, below one of the tree."""


async def test_an_error_below_one_of_the_tree_arrives_as_that_one(caller: Caller) -> None:
    caller.service.failure = SubtreeError("too much", reason="too_much")
    error = await caller.failed("one")
    assert type(error) is errors.CapacityError
    assert error.reason == "too_much"


@methods
@pytest.mark.parametrize("failure", [ValueError(PRIVATE), KeyError(PRIVATE), OSError(2, PRIVATE), RecursionError()])
async def test_an_unforeseen_error_arrives_without_its_text(
    caller: Caller, failure: Exception, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    caller.service.failure = failure
    error = await caller.failed(method)
    assert type(error) is KvquiltError
    assert error.reason == "internal"
    assert PRIVATE not in str(error)
    assert "log" in str(error)
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [failure], "the log has it"


@methods
@pytest.mark.parametrize("message", ["", "two\nlines", "Ä€😀 %41 \x7f", "x" * 999])
async def test_any_message_arrives_as_it_is(caller: Caller, message: str, method: str) -> None:
    caller.service.failure = errors.NotFoundError(message)
    error = await caller.failed(method)
    assert type(error) is errors.NotFoundError
    assert str(error) == (message or "not_found")


@methods
@pytest.mark.parametrize("character", ["x", "é", "😀"])
async def test_a_long_message_is_cut_so_that_the_answer_arrives_at_all(
    caller: Caller, character: str, method: str
) -> None:
    caller.service.failure = errors.IntegrityError("expected " + character * 300_000, reason="checksum")
    error = await caller.failed(method)
    assert type(error) is errors.IntegrityError
    assert error.reason == "checksum"
    assert str(error).startswith("expected " + character * 200)
    assert set(str(error).removeprefix("expected ")) == {character}, "cut between characters"


def packed(info: Any) -> bytes:
    detail = any_pb2.Any()
    detail.Pack(info)
    return status_pb2.Status(code=15, message="by hand", details=[detail]).SerializeToString()


@pytest.mark.parametrize(
    "details",
    [
        None,
        "no binary",
        b"",
        b"\xff\xff\xff",
        b"\x0a\xff\xff\xff\xff\x0f",
        bytes(200),
        packed(error_details_pb2.ErrorInfo(reason="theirs", domain="somebody.else"))[:-3],
        packed(error_details_pb2.ErrorInfo(reason="theirs", domain="somebody.else")),
        packed(wrappers_pb2.StringValue(value="theirs")),
        status_pb2.Status(
            details=[any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff")]
        ).SerializeToString(),
    ],
)
async def test_details_that_are_malformed_or_not_ours_are_survived(caller: Caller, details: bytes | str | None) -> None:
    caller.service.details = details
    error = await caller.failed("by_hand")
    assert type(error) is errors.IntegrityError, "the code alone says so"
    assert (str(error), error.reason) == ("by hand", "integrity")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.CANCELLED, errors.UnavailableError),
        (grpc.StatusCode.UNAVAILABLE, errors.UnavailableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.CapacityError),
        (grpc.StatusCode.UNIMPLEMENTED, KvquiltError),
        (grpc.StatusCode.UNKNOWN, KvquiltError),
        (grpc.StatusCode.ABORTED, KvquiltError),
    ],
)
async def test_what_grpc_itself_answers_is_of_the_tree_too(
    caller: Caller, code: grpc.StatusCode, kind: type[KvquiltError]
) -> None:
    caller.service.code = code
    error = await caller.failed("by_hand")
    assert type(error) is kind
    assert error.reason == kind.reason


async def test_a_stream_whose_caller_goes_away_is_closed_at_once(caller: Caller) -> None:
    caller.service.before = 1_000_000
    call = caller.channel.unary_stream(f"/{SERVICE}/Many")(b"x" * 1000, timeout=DEADLINE)
    assert await call.read() == b"x" * 1000
    assert not caller.service.closed.is_set()
    call.cancel()
    await asyncio.wait_for(caller.service.closed.wait(), DEADLINE)


async def test_a_call_that_grpc_cancels_by_itself_is_unavailable_and_no_cancellation_of_the_caller(
    caller: Caller,
) -> None:
    """gRPC does so when it cannot send the next message, here because there is none."""

    def broken() -> Iterator[bytes]:
        yield b"a"
        raise ValueError

    with pytest.raises(errors.UnavailableError, match="the connection ended"):
        async with status.translated():
            await caller.channel.stream_unary(f"/{SERVICE}/Collect")(broken(), timeout=DEADLINE)


async def test_a_caller_that_is_cancelled_stays_cancelled(caller: Caller) -> None:
    never = asyncio.Event()

    async def waiting() -> AsyncIterator[bytes]:
        await never.wait()
        yield b""

    async def call() -> None:
        async with status.translated():
            await caller.channel.stream_unary(f"/{SERVICE}/Collect")(waiting(), timeout=DEADLINE)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await call()
    task = asyncio.create_task(call())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
