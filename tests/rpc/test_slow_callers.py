"""Callers that read or send slowly keep their places, and do not make calls seem dear by which others are refused."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from kvquilt_rpc.admission import Lanes, Slots
from kvquilt_rpc.counters import CALL_COUNTERS, Counters
from kvquilt_rpc.server import RpcServer
from tests.rpc.nodes.cluster import until

MESSAGE, MESSAGES = bytes(1 << 20), 64
"""More than gRPC takes ahead of a reader."""
HELD = 2.0
"""Seconds that a caller leaves a call waiting; its demand may be no more than a quarter of them."""


class Handlers:
    """Take messages, or give them, with nothing else to do."""

    def __init__(self) -> None:
        self.handled = 0

    async def give(self, request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        for _ in range(MESSAGES):
            self.handled += 1
            yield MESSAGE

    async def take(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> bytes:
        async for _ in requests:
            self.handled += 1
        return b""


@asynccontextmanager
async def served() -> AsyncIterator[tuple[grpc.aio.Channel, Handlers, Slots]]:
    handlers, counters = Handlers(), Counters(CALL_COUNTERS)
    slots = Slots("calls", 8, 0, counters)
    server = RpcServer("127.0.0.1", 0, [], counters=counters, lanes=Lanes(slots, {}))
    methods = {
        "Give": grpc.unary_stream_rpc_method_handler(handlers.give, bytes, bytes),
        "Take": grpc.stream_unary_rpc_method_handler(handlers.take, bytes, bytes),
    }
    server.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Service", methods)])
    address = await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        yield channel, handlers, slots
    await server.drain(0)


async def stalled(handlers: Handlers) -> None:
    """Wait until nothing more is handled."""
    while True:
        before = handlers.handled
        await asyncio.sleep(0.3)
        if before and handlers.handled == before:
            return


async def ended(slots: Slots) -> None:
    async def none_runs() -> bool:
        return not slots.running

    await until(none_runs)


async def test_the_time_that_a_reader_leaves_a_stream_waiting_is_no_demand() -> None:
    async with served() as (channel, handlers, slots):
        call = channel.unary_stream("/test.Service/Give")(b"")
        await stalled(handlers)
        assert slots.running == 1
        assert handlers.handled < MESSAGES
        await asyncio.sleep(HELD)
        assert sum([len(message) async for message in call]) == MESSAGES * len(MESSAGE)
        await ended(slots)
        assert 0 < slots.demand < HELD / 4


async def test_the_time_that_a_sender_leaves_a_stream_waiting_is_no_demand() -> None:
    async with served() as (channel, handlers, slots):

        async def requests() -> AsyncIterator[bytes]:
            yield b"first"
            await stalled(handlers)
            await asyncio.sleep(HELD)
            yield b"last"

        await channel.stream_unary("/test.Service/Take")(requests())
        await ended(slots)
        assert handlers.handled == 2
        assert 0 < slots.demand < HELD / 4
