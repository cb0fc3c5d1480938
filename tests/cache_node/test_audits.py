"""What audits found, on a running node: merged, stored anew, never lost by a crash, never believed when damaged."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import grpc
import msgspec
import pytest
from grpc import StatusCode

from kvquilt_cache_node.audits import NOT_ALLOWED
from kvquilt_codec.gate import audits_file as file
from kvquilt_codec.gate.audits import GateAudits, PointAudits, Tally, new_replica
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.node_files import AuditsHeard
from kvquilt_rpc.security import Credentials, ServerSecurity
from tests.cache_node.calls import DEADLINE, Node, answer, serving
from tests.codec.samples import FINGERPRINT
from tests.rpc.certificates import Signer, node
from tests.stack import blobs, eventually, node_process

PROFILE = "cd" * 32
KEY = ("none", 0.0, "warm", "high")
NOTHING = GateAudits("ab" * 32, FINGERPRINT, PROFILE)


def audits(audits: int = 1, *, withdrawn: bool = False, of: GateAudits = NOTHING) -> GateAudits:
    """What a router that just started found of one point."""
    replicas = {new_replica(1.0): Tally(audits, 0)}
    return of.with_points({KEY: PointAudits(*KEY, withdrawn=withdrawn, replicas=replicas)})


async def merge(at: Node | NodeClient, known: GateAudits = NOTHING) -> AuditsHeard:
    client = at.client if isinstance(at, Node) else at
    return await client.audits.merge(known, deadline=DEADLINE)


def total(heard: AuditsHeard) -> int:
    return sum(point.total.audits for point in heard.state.points)


async def test_what_routers_found_is_merged_and_kept_in_one_file(tmp_path: Path) -> None:
    async with serving("file", tmp_path) as at:
        assert (await merge(at)).state == NOTHING
        one, other = audits(2), audits(3, withdrawn=True)
        assert (await merge(at, one)).state == one
        whole = one.merged(other)
        for known in (other, one, other, NOTHING):
            heard = await merge(at, known)
            assert (heard.state, heard.unstored, heard.damaged) == (whole, (), 0)
        assert len(blobs(tmp_path)) == 1
        assert (await at.counters())["audits_stored"] == 2, "nothing is written where nothing is new"
    async with serving("file", tmp_path) as at:
        assert (await merge(at)).state == whole
    for index in tmp_path.glob("index.sqlite*"):
        index.unlink()
    async with serving("file", tmp_path) as at:
        assert (await merge(at)).state == whole, "found by its own bytes"


async def test_each_gate_has_its_own() -> None:
    other_gate = replace_gate("ef" * 32)
    async with serving() as at:
        await merge(at, audits(2))
        assert (await merge(at, other_gate)).state == other_gate
        await merge(at, audits(3, of=other_gate))
        assert total(await merge(at)) == 2
        assert total(await merge(at, other_gate)) == 3


def replace_gate(gate: str) -> GateAudits:
    return msgspec.structs.replace(NOTHING, gate=gate)


async def test_many_routers_at_once_lose_nothing(tmp_path: Path) -> None:
    async with serving("file", tmp_path) as at:
        await asyncio.gather(*(merge(at, audits(number)) for number in range(1, 21)))
        assert total(await merge(at)) == 210
        assert len(blobs(tmp_path)) == 1


async def test_a_node_that_died_between_writing_and_deleting_merges_what_it_left(tmp_path: Path) -> None:
    states = [audits(number) for number in (1, 2, 4)]
    async with serving("file", tmp_path) as at:
        await merge(at, states[0])
    for state in states[1:]:
        # As a node leaves it that wrote a file and came to nothing else.
        data = file.dump(state)
        path = tmp_path / "blobs" / file.digest(data)[:2] / f"{file.digest(data)}.kvq"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    for index in tmp_path.glob("index.sqlite*"):
        index.unlink()
    async with serving("file", tmp_path) as at:
        assert total(await merge(at)) == 7
        eventually(lambda: len(blobs(tmp_path)) == 1)


async def test_a_node_killed_while_it_writes_has_what_it_acknowledged(tmp_path: Path) -> None:
    for begin in range(0, 30, 10):
        acknowledged = 0
        with node_process(tmp_path) as (process, address):
            client = NodeClient(address)
            asking = asyncio.create_task(_numbered(client, begin, done := []))
            while len(done) < 5:
                assert not asking.done()
                await asyncio.sleep(0.01)
            process.kill()
            await asyncio.gather(asking, return_exceptions=True)
            acknowledged = sum(done)
            await client.close()
        with node_process(tmp_path) as (_, address):
            client = NodeClient(address)
            heard = await merge(client)
            assert total(heard) >= acknowledged
            assert heard.damaged == 0
            await client.close()


async def _numbered(client: NodeClient, begin: int, done: list[int]) -> None:
    for number in range(begin + 1, begin + 1000):
        await merge(client, audits(number))
        done.append(number)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "altered": lambda path: path.write_bytes(path.read_bytes().replace(b'"withdrawn":true', b'"withdrawn":null')),
    "another state": lambda path: path.write_bytes(file.dump(audits(9))),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_a_damaged_or_lost_record_is_told_once_and_replaced_by_what_routers_know(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    known = audits(2, withdrawn=True)
    async with serving("file", tmp_path) as at:
        await merge(at, known)
        (path,) = blobs(tmp_path)
        damage(path)
        heard = await merge(at)
        assert (heard.state, heard.damaged) == (NOTHING, 1), "nobody believes it, and its loss is told"
        assert (await at.counters())["audits_damaged"] == 1
        heard = await merge(at, known)
        assert (heard.state, heard.damaged) == (known, 0)
        assert (await merge(at)).state == known


def request(**fields: object) -> pb.MergeAuditsRequest:
    data = file.dump(audits(2))
    named = {"gate_digest": NOTHING.gate, "profile_digest": PROFILE, "model_fingerprint": FINGERPRINT}
    return pb.MergeAuditsRequest(**{**named, "audits": data, "audits_digest": file.digest(data), **fields})


LIE = b'{"kind":"audits"' + b"[" * 10_000
REFUSED = {
    "another digest": request(audits_digest="00" * 32),
    "no digest": request(audits_digest=""),
    "no audits": request(audits=LIE, audits_digest=file.digest(LIE)),
    "another gate's": request(gate_digest="ef" * 32),
    "another model's": request(model_fingerprint="ef" * 32),
    "a gate of no form": request(gate_digest="../../etc/passwd"),
    "a profile of no form": request(profile_digest=""),
    "too large": request(audits=(large := b" " * (file.MAX_BYTES + 1)), audits_digest=file.digest(large)),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_no_audits_of_the_gate_is_refused(name: str) -> None:
    async with serving() as at:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await at.stub.MergeAudits(REFUSED[name], timeout=DEADLINE)
        assert answer(caught.value)[0] is StatusCode.INVALID_ARGUMENT
        assert await at.used() == (0, 0)
        assert total(await merge(at, audits(2))) == 2


async def test_a_store_without_room_says_so_and_gives_what_there_is() -> None:
    first = audits(2)
    async with serving(capacity=len(file.dump(first)) + 10) as at:
        assert (await merge(at, first)).unstored == ()
        heard = await merge(at, audits(3))
        assert total(heard) == 5
        assert "expected room" in heard.unstored[0]
        assert total(await merge(at)) == 2


async def test_only_callers_of_all_namespaces_may_write_and_others_may_read(tmp_path: Path) -> None:
    signer = Signer.new(tmp_path / "tokens.key")
    async with node(ServerSecurity(token_key=signer.public)) as address:
        tokens = (signer.token("tenant", "a", public_write=True), signer.token("router", "*"))
        tenant, router = (NodeClient(address, Credentials(token=token)) for token in tokens)
        lie = audits(9, withdrawn=True)
        heard = await merge(tenant, lie)
        assert heard.unstored == (NOT_ALLOWED,)
        assert (await merge(router)).state == NOTHING, "a tenant does not close the gate of others"
        known = audits(2)
        assert (await merge(router, known)).unstored == ()
        heard = await merge(tenant)
        assert (heard.state, heard.unstored) == (known, ())
        await tenant.close()
        await router.close()
