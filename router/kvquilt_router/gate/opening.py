"""Where a router's gate comes from: a file, by default the one beside the codec profile's, or else the cache node."""

import asyncio
import logging
import time
from pathlib import Path

from kvquilt_codec.errors import (
    BadRequestError,
    CapacityError,
    FingerprintMismatchError,
    IntegrityError,
    KvquiltError,
    NotFoundError,
)
from kvquilt_codec.gate.file import beside, check, load
from kvquilt_router.gate.held import HeldGate
from kvquilt_router.gate.sharing import AuditSharing
from kvquilt_router.profiles import AUTO, ModelProfile, auto_path
from kvquilt_router.retrying import until_done
from kvquilt_router.settings import RouterSettings
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.nodes import CacheNodes

log = logging.getLogger(__name__)

NODE = "node"
_NOT_MEASURED = "no gate was measured with this codec profile: `kvquilt calibrate` does"
_START_DEADLINE = 2.0
"""A node that does not answer must not keep a router from starting."""
_LEAST_DEADLINE = 0.1
_GIVE_UP = (CapacityError, BadRequestError)


class ModelGate:
    """The gate of one model, in force or still to come, and its place on the node.

    Args:
        node: that keeps it.
        model_fingerprint: of the model.
        profile: its codec profile.
        counters: of the router.
        deadline: seconds that a transfer may take.

    Attributes:
        held: what decides; its gate may come later.
        sharing: tells other routers what audits found, and hears it from them.
    """

    def __init__(
        self, node: CacheNodes, model_fingerprint: str, profile: ModelProfile, counters: Counters, *, deadline: float
    ) -> None:
        self._node = node
        self._fingerprint = model_fingerprint
        self._profile = profile
        self._deadline = deadline
        self._data = b""
        self._wanted = False
        self.held = HeldGate()
        self.sharing = AuditSharing(node, self.held, counters, deadline=deadline)

    def take(self, path: Path) -> None:
        """Use this file from now on.

        Raises:
            NotFoundError: there is no such file.
            IntegrityError: it is no gate.
            FingerprintMismatchError: it is of another model or codec profile.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise NotFoundError(f"expected a gate file in {path}; got {error}") from None
        check(load(data), self._fingerprint, self._profile.digest)
        self._use(data, str(path))

    def _use(self, data: bytes, source: str) -> None:
        self._data = data
        self.held.come(load(data), source)

    async def fetch(self, deadline: float | None = None) -> None:
        """Get the gate from the node.

        Raises:
            KvquiltError: it cannot be had; `held.missing_reason` says why where it is not for this model and profile.
        """
        digest = self._profile.digest
        try:
            data = await self._node.gates.get(digest, self._fingerprint, deadline=deadline or self._deadline)
        except (IntegrityError, FingerprintMismatchError) as error:
            self.held.missing_reason = f"the node's gate is not used: {error}"
            raise
        self._use(data, NODE)
        log.info("the gate came from the node")

    async def publish(self) -> None:
        """Let the node have the gate.

        Raises:
            KvquiltError: the node cannot take it.
        """
        await self._node.gates.put(self._data, deadline=self._deadline)

    async def run(self) -> None:
        """Keep the gate on the nodes, and share what audits find of it; until cancelled."""
        await asyncio.gather(self._settle(), self.sharing.run())

    async def hear(self, deadline: float) -> None:
        """Learn what other routers withdrew, if a node tells it in time; else it is learnt later."""
        if self.held.gate is None:
            return
        try:
            await self.sharing.exchange(min(self._deadline, deadline))
        except KvquiltError as error:
            log.warning("chunks are used in their exact context only until a node tells what was withdrawn: %s", error)

    async def _settle(self) -> None:
        """Fetch or publish, again and again until it is done or cannot be; and publish anew when the profile is.

        Runs until cancelled, unless there is no gate and none is wanted.
        """
        if self._data and self.held.source != NODE:
            await until_done(self.publish, "the gate", _GIVE_UP)
        elif self._wanted and not self._data:
            await until_done(self.fetch, "the gate", _GIVE_UP)
        while self._data:
            await self._profile.stored_anew.wait()
            self._profile.stored_anew.clear()
            await until_done(self.publish, "the gate", _GIVE_UP)

    def take_if_it_holds(self, path: Path | None) -> None:
        """Use this file if there is one and it holds; otherwise say why not."""
        self.held.missing_reason = _NOT_MEASURED
        if path is None or not path.is_file():
            return
        try:
            self.take(path)
        except KvquiltError as error:
            log.warning("the gate %s is not used: %s", path, error)
            self.held.missing_reason = str(error)

    async def want(self, deadline: float) -> None:
        """Use what the node has, now or later, unless there is a gate already."""
        if self.held.gate is not None or not self._profile.digest:
            return
        self._wanted = True
        try:
            await self.fetch(min(self._deadline, deadline))
        except KvquiltError as error:
            log.warning("chunks are used in their exact context only until there is a gate: %s", error)


async def open_gate(
    settings: RouterSettings, model_fingerprint: str, profile: ModelProfile, node: CacheNodes, counters: Counters
) -> ModelGate:
    """The gate that the settings name; without one that holds, chunks are used in their exact context only.

    Args:
        settings: name a file, or none; or "auto" for the file beside the profile's, or else what the node has.
        model_fingerprint: of the model to serve.
        profile: the codec profile in force.
        node: the cache node; it may be down.
        counters: of the router.

    Raises:
        NotFoundError, IntegrityError, FingerprintMismatchError: a file that is named is not there, is no gate, or is of
            another model or codec profile.
    """
    opened = ModelGate(node, model_fingerprint, profile, counters, deadline=settings.put_deadline)
    end = time.monotonic() + _START_DEADLINE
    if settings.ungated:
        log.warning("router.ungated: blends are served that nothing was measured of; for evaluation only")
        opened.held.ungated, opened.held.missing_reason = True, "router.ungated is set"
    elif not settings.gate:
        opened.held.missing_reason = "router.gate is empty"
    elif settings.gate == AUTO:
        await asyncio.to_thread(lambda: opened.take_if_it_holds(_beside(settings, model_fingerprint)))
        await opened.want(_START_DEADLINE)
    else:
        await asyncio.to_thread(lambda: opened.take(Path(settings.gate).expanduser()))
    await opened.hear(max(_LEAST_DEADLINE, end - time.monotonic()))
    return opened


def _beside(settings: RouterSettings, model_fingerprint: str) -> Path | None:
    if settings.profile == AUTO:
        found = auto_path(model_fingerprint)
        return None if found is None else beside(found)
    path = Path(settings.profile).expanduser()
    return beside(path) if settings.profile and path.is_file() else None
