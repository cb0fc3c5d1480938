"""Codec profiles, gates and audits on several nodes: every node gets them; any node gives profiles and gates."""

import time
from collections.abc import Awaitable, Callable, Sequence

from kvquilt_codec.catalog import ProfileInfo
from kvquilt_codec.errors import KvquiltError, NotFoundError, UnavailableError
from kvquilt_codec.gate.audits import GateAudits
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.node_files import AuditsHeard
from kvquilt_rpc.nodes import merging
from kvquilt_rpc.nodes.attempts import Attempts, Call, answers
from kvquilt_rpc.nodes.routing import Routing


class PoolProfiles:
    """The codec profiles of all nodes; see `StoredProfiles`."""

    def __init__(self, attempts: Attempts, routing: Routing, *, shared: bool) -> None:
        self._attempts = attempts
        self._routing = routing
        self._shared = shared

    async def put(self, data: bytes, digest: str, model_fingerprint: str, *, deadline: float) -> bool:
        """See `StoredProfiles`."""

        async def work(client: NodeClient, _: Sequence[bytes], seconds: float) -> bool:
            end = time.monotonic() + seconds
            if digest in {info.digest for info in await client.profiles.list(deadline=seconds)}:
                return False
            return await client.profiles.put(data, digest, model_fingerprint, deadline=_left(end))

        call = Call("put_profile", work)
        found = await self._attempts.each(self._routing.usable(), call, deadline)
        stored = answers(found)
        return any(stored)

    async def get(self, digest: str, model_fingerprint: str = "", *, deadline: float) -> bytes:
        """See `StoredProfiles`."""
        return await _from_any(
            self._attempts,
            self._routing,
            "get_profile",
            digest,
            lambda client, seconds: client.profiles.get(digest, model_fingerprint, deadline=seconds),
            deadline,
        )

    async def list(self, *, deadline: float) -> list[ProfileInfo]:
        """See `StoredProfiles`."""
        call = Call("list_profiles", lambda client, _, seconds: client.profiles.list(deadline=seconds))
        found = answers(await self._attempts.each(self._routing.usable(), call, deadline))
        return merging.profiles(found, shared=self._shared)


class PoolGates:
    """The gates of all nodes; see `StoredGates`."""

    def __init__(self, attempts: Attempts, routing: Routing) -> None:
        self._attempts = attempts
        self._routing = routing

    async def put(self, data: bytes, *, deadline: float) -> bool:
        """See `StoredGates`."""
        call = Call("put_gate", lambda client, _, seconds: client.gates.put(data, deadline=seconds))
        found = await self._attempts.each(self._routing.usable(), call, deadline)
        stored = answers(found)
        return any(stored)

    async def get(self, profile_digest: str, model_fingerprint: str, *, deadline: float) -> bytes:
        """See `StoredGates`."""
        return await _from_any(
            self._attempts,
            self._routing,
            "get_gate",
            profile_digest,
            lambda client, seconds: client.gates.get(profile_digest, model_fingerprint, deadline=seconds),
            deadline,
        )


class PoolAudits:
    """What audits found of gates, on all nodes; see `StoredAudits`."""

    def __init__(self, attempts: Attempts, routing: Routing) -> None:
        self._attempts = attempts
        self._routing = routing

    async def merge(self, known: GateAudits, *, deadline: float) -> AuditsHeard:
        """See `StoredAudits`."""
        call = Call("merge_audits", lambda client, _, seconds: client.audits.merge(known, deadline=seconds))
        found = await self._attempts.each(self._routing.usable(), call, deadline)
        heard = answers(found)
        state = known.with_points({})
        for one in heard:
            state = state.merged(one.state)
        failed = tuple(f"node {answer.member.site.name}: {answer.error}" for answer in found if answer.result is None)
        kept_not = tuple(reason for one in heard for reason in one.unstored)
        return AuditsHeard(state, len(found), (*kept_not, *failed), sum(one.damaged for one in heard))


async def _from_any(
    attempts: Attempts,
    routing: Routing,
    name: str,
    digest: str,
    work: Callable[[NodeClient, float], Awaitable[bytes]],
    deadline: float,
) -> bytes:
    """A file from the first node that has it, each being asked once.

    Raises:
        UnavailableError, DeadlineError: none of those that answered has it, and not all answered.
        KvquiltError: what the last one said otherwise.
    """
    end = time.monotonic() + deadline
    key = digest.encode()
    order = list(routing.chunk(key, routing.usable()))
    missing: KvquiltError | None = None
    failure: KvquiltError | None = None
    for place, member in enumerate(order):
        share = _left(end) / (1 if place + 1 == len(order) else 2)
        (answer,) = await attempts.ask({key: [member]}, Call(name, lambda client, _, left: work(client, left)), share)
        if answer.result is not None:
            return answer.result
        if isinstance(answer.error, NotFoundError):
            missing = answer.error
        else:
            failure = answer.error
    raise failure or missing or UnavailableError("expected an answer; no node was asked")


def _left(end: float) -> float:
    return max(0.0, end - time.monotonic())
