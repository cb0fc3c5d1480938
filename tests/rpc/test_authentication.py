"""Who may call a server: real TLS, real tokens and real limits, on a real node."""

import logging
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from kvquilt_codec.errors import (
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_proto.v1 import cache_node_pb2_grpc
from kvquilt_rpc.security import ServerSecurity
from kvquilt_rpc.status import from_rpc_error
from tests.rpc.certificates import (
    DEADLINE,
    KEY,
    Authority,
    Signer,
    as_client,
    calling,
    counters,
    every_kind_of_call,
    mutual,
    node,
    refused,
    tls,
)

# Certificates


async def test_a_certificate_that_the_server_knows_may_make_every_kind_of_call(
    authority: Authority, identities: Path
) -> None:
    async with node(mutual(authority, identities)) as address, calling(address, **as_client(authority)) as client:
        await every_kind_of_call(client)


async def test_a_certificate_without_an_identity_is_denied(authority: Authority, identities: Path) -> None:
    async with node(mutual(authority, identities)) as address:
        async with calling(address, **as_client(authority, "stranger.example")) as client:
            assert await refused(client) == {(PermissionDeniedError, "certificate_unknown")}
        async with calling(address, **as_client(authority)) as client:
            assert await counters(client) == {"calls_denied": 3}


@pytest.mark.parametrize("kind", ["another authority's", "none", "clear text", "server unknown"])
async def test_a_connection_that_tls_refuses_is_unavailable_with_advice(
    authority: Authority, other: Authority, identities: Path, kind: str
) -> None:
    credentials: dict[str, object] = {
        "another authority's": as_client(other) | {"tls_ca": authority.pem},
        "none": {"tls_ca": authority.pem},
        "clear text": {},
        "server unknown": as_client(authority) | {"tls_ca": other.pem},
    }[kind]
    async with node(mutual(authority, identities)) as address, calling(address, **credentials) as client:
        with pytest.raises(UnavailableError, match="may not agree on TLS") as caught:
            await client.stat([KEY], deadline=DEADLINE)
        assert caught.value.reason == "tls_handshake"


async def test_certificates_are_replaced_while_the_server_runs(
    authority: Authority, other: Authority, identities: Path
) -> None:
    security = mutual(authority, identities)
    async with node(security) as address, calling(address, **as_client(authority)) as old:
        await every_kind_of_call(old)
        renewed = other.issue("renewed", "127.0.0.1")
        assert security.tls_cert is not None
        assert security.tls_key is not None
        # The key comes a moment after its certificate: a pair that does not fit is not served.
        security.tls_cert.write_bytes(renewed.cert.read_bytes())
        async with calling(address, **as_client(authority)) as between:
            assert await between.stat([KEY], deadline=DEADLINE)
        security.tls_key.write_bytes(renewed.key.read_bytes())
        async with calling(address, **as_client(authority) | {"tls_ca": other.pem}) as new:
            assert await new.stat([KEY], deadline=DEADLINE)
        async with calling(address, **as_client(authority)) as late:
            with pytest.raises(UnavailableError):
                await late.stat([KEY], deadline=DEADLINE)
        assert await old.stat([KEY], deadline=DEADLINE), "connections that were made before go on"


async def test_identities_are_read_again(authority: Authority, identities: Path) -> None:
    async with (
        node(mutual(authority, identities)) as address,
        calling(address, **as_client(authority, "new.example")) as client,
    ):
        assert await refused(client) == {(PermissionDeniedError, "certificate_unknown")}
        identities.write_text(identities.read_text() + "new.example: {namespaces: [a]}\n")
        await every_kind_of_call(client)


# Tokens


@pytest.mark.parametrize("secured", [True, False], ids=["tls", "clear text on loopback"])
async def test_a_token_lets_every_kind_of_call_in_and_nothing_else_does(
    authority: Authority, signer: Signer, tmp_path: Path, secured: bool
) -> None:
    own = {"token_key": signer.public}
    security = tls(authority, **own) if secured else ServerSecurity(**own)
    ca = {"tls_ca": authority.pem} if secured else {}
    async with node(security) as address:
        for token, reason in (
            (None, "token_missing"),
            (signer.token(age=7200), "token_expired"),
            (signer.token()[:-8] + "AAAAAAAA", "token_signature"),
            (Signer.new(tmp_path / "stranger.key").token(), "token_signature"),
            ("x" * 4096, "token_malformed"),
        ):
            async with calling(address, token=token, **ca) as client:
                assert await refused(client) == {(UnauthenticatedError, reason)}
        async with calling(address, token=signer.token(), **ca) as client:
            await every_kind_of_call(client)
            assert await counters(client) == {"calls_unauthenticated": 15}


async def test_a_token_decides_where_the_certificate_alone_is_no_identity(
    authority: Authority, signer: Signer, identities: Path
) -> None:
    security = mutual(authority, identities, token_key=signer.public)
    stranger = as_client(authority, "stranger.example")
    async with node(security) as address:
        async with calling(address, **stranger) as client:
            assert await refused(client) == {(PermissionDeniedError, "certificate_unknown")}
        async with calling(address, token=signer.token(), **stranger) as client:
            await every_kind_of_call(client)
        async with calling(address, token=signer.token(age=7200), **as_client(authority)) as client:
            assert await refused(client) == {(UnauthenticatedError, "token_expired")}, "a bad token is not passed over"


async def test_a_token_file_is_read_again(signer: Signer, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(signer.token(age=7200))
    async with node(ServerSecurity(token_key=signer.public)) as address, calling(address, token_file=path) as client:
        assert await refused(client) == {(UnauthenticatedError, "token_expired")}
        path.write_text(signer.token() + "\n")
        await every_kind_of_call(client)


async def test_a_namespace_must_be_one_of_the_callers(signer: Signer) -> None:
    async with node(ServerSecurity(token_key=signer.public)) as address:
        for namespace, namespaces in (("b", ("a", "b")), ("b", ("*",)), ("public", ("a",)), ("", ("a",))):
            async with calling(address, token=signer.token("x", *namespaces), namespace=namespace) as client:
                await client.stat([KEY], deadline=DEADLINE)
        async with calling(address, token=signer.token("x", "a", "b"), namespace="c") as client:
            assert await refused(client) == {(PermissionDeniedError, "namespace_denied")}


async def test_a_call_by_hand_with_bad_metadata_is_refused(signer: Signer) -> None:
    async with (
        node(ServerSecurity(token_key=signer.public)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub = cache_node_pb2_grpc.CacheNodeServiceStub(channel)

        async def reason(*metadata: tuple[str, str]) -> str:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.GetNodeStatus(pb.GetNodeStatusRequest(), metadata=metadata, timeout=DEADLINE)
            return from_rpc_error(caught.value).reason

        token = signer.token()
        assert await reason(("authorization", f"Basic {token}")) == "token_malformed"
        assert await reason(("authorization", token)) == "token_malformed"
        assert await reason(("authorization", "Bearer ")) == "token_malformed"
        assert await reason(("authorization", "Bearer " + "x" * 5000)) == "token_oversized"
        assert await reason(("authorization", f"bearer {token}"), ("kvquilt-namespace", "a/b")) == "bad_request"
        assert await reason(("authorization", f"Bearer {token}"), ("x", "y" * (1 << 20))) == "capacity"
        answer = await stub.GetNodeStatus(
            pb.GetNodeStatusRequest(), metadata=[("authorization", f"bearer {token}")], timeout=DEADLINE
        )
        assert answer.store == "memory"


async def test_health_is_open_and_reflection_is_not(signer: Signer) -> None:
    async with (
        node(ServerSecurity(token_key=signer.public)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(stub.ServerReflectionInfo(iter([request]), timeout=DEADLINE)))
        assert from_rpc_error(caught.value).reason == "token_missing"
        metadata = [("authorization", f"Bearer {signer.token()}")]
        listed = await anext(aiter(stub.ServerReflectionInfo(iter([request]), metadata=metadata, timeout=DEADLINE)))
        assert "kvquilt.v1.CacheNodeService" in {found.name for found in listed.list_services_response.service}


async def test_nothing_secret_is_logged(
    authority: Authority, signer: Signer, identities: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    tokens = [signer.token(age=7200), signer.token()[:-8] + "AAAAAAAA", signer.token("x", "a"), "not.a.token"]
    security = ServerSecurity(token_key=signer.public, calls_per_second=1.0)
    async with node(security) as address:
        for token in tokens:
            async with calling(address, token=token, namespace="b") as client:
                await refused(client)
    assert any("refused /kvquilt.v1.CacheNodeService/" in record.message for record in caplog.records)
    for token in tokens:
        for part in token.split("."):
            assert len(part) < 8 or part not in caplog.text
