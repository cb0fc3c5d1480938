"""Limits of one identity, on a real node with real tokens."""

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from kvquilt_codec.errors import (
    CapacityError,
)
from kvquilt_rpc.security import ServerSecurity
from tests.cache_node.calls import CONTAINER, KEY, META
from tests.rpc.certificates import DEADLINE, Signer, calling, counters, every_kind_of_call, node, refused

# Limits


async def test_calls_beyond_the_rate_are_refused_with_a_hint(signer: Signer) -> None:
    security = ServerSecurity(token_key=signer.public, calls_per_second=0.01)
    async with node(security) as address:
        async with calling(address, token=signer.token()) as client:
            await client.stat([KEY], deadline=DEADLINE)
            with pytest.raises(CapacityError) as caught:
                await client.stat([KEY], deadline=DEADLINE)
            assert caught.value.reason == "rate_limited"
            assert caught.value.retry_after is not None
            assert 50 < caught.value.retry_after <= 100
            assert await refused(client) == {(CapacityError, "rate_limited")}
        async with calling(address, token=signer.token("another", "a")) as client:
            assert await counters(client) == {"calls_limited": 4}, "the limit is each identity's own"


async def test_calls_at_once_are_limited_until_one_ends(signer: Signer) -> None:
    security = ServerSecurity(token_key=signer.public, calls_at_once=1)
    async with node(security) as address, calling(address, token=signer.token()) as client:
        running = reflection_pb2_grpc.ServerReflectionStub(client._channel).ServerReflectionInfo(timeout=DEADLINE)
        await running.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        assert await running.read() is not grpc.aio.EOF
        assert await refused(client) == {(CapacityError, "too_many_calls")}
        await running.done_writing()
        assert await running.read() is grpc.aio.EOF
        await every_kind_of_call(client)


async def test_bytes_of_a_stream_count(signer: Signer) -> None:
    security = ServerSecurity(token_key=signer.public, bytes_per_second=len(CONTAINER) // 10)
    async with node(security) as address, calling(address, token=signer.token(public_write=True)) as client:
        assert await client.put(KEY, CONTAINER, META, deadline=DEADLINE)
        assert await refused(client) == {(CapacityError, "byte_rate_limited")}
