"""The vocabulary of `kvquilt doctor`: what is looked at, and what came of it. Read this file first."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from kvquilt.checks import Check, SkippedError
from kvquilt.states import Status
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_proto.v1.cache_node_pb2 import GetNodeStatusResponse
from kvquilt_router.settings import RouterSettings
from kvquilt_rpc.security import Credentials


class Part(StrEnum):
    """What runs on this machine, or will."""

    NODE = "node"
    ROUTER = "router"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class NodeFound:
    """A cache node as it answered this process.

    Attributes:
        target: its address.
        weight: of `router.nodes`.
        status: what it said; `None` if it did not.
        error: why not.
        ahead: seconds that its clock is ahead of this machine's.
        doubt: seconds that this may be off by.
    """

    target: str
    weight: float
    status: GetNodeStatusResponse | None
    error: str = ""
    ahead: float = 0.0
    doubt: float = 0.0


@dataclass(slots=True, eq=False)
class Patient:
    """What is looked at, and what checks share.

    Attributes:
        node: settings of a node.
        router: settings of a router.
        target: the router that clients call.
        credentials: as whom.
        deadline: seconds that a call of it may take.
        parts: what is, or will be, on this machine.
        running: router and nodes are to be running.
        config: the file of settings; `None`: there is none.
        secret_settings: settings with secrets that stand in that file.
        clock: this machine's, in seconds since 1970.
        patience: seconds that looking at one address may take.
        status: of the router, once it has answered.
        status_ahead: seconds that its clock is ahead of this machine's, and what this may be off by.
        nodes: of `router.nodes`, once they were asked.
    """

    node: NodeSettings
    router: RouterSettings
    target: str
    credentials: Credentials
    deadline: float = 60.0
    parts: frozenset[Part] = frozenset(Part)
    running: bool = True
    config: Path | None = None
    secret_settings: tuple[str, ...] = ()
    clock: Callable[[], float] = time.time
    patience: float = 5.0
    status: Status | None = None
    status_ahead: tuple[float, float] = (0.0, 0.0)
    nodes: list[NodeFound] = field(default_factory=list)

    @property
    def known(self) -> Status:
        """The router's state.

        Raises:
            SkippedError: it did not answer.
        """
        if self.status is None:
            raise SkippedError("the router did not answer")
        return self.status

    @property
    def answering(self) -> list[NodeFound]:
        """Nodes that answered.

        Raises:
            SkippedError: none did.
        """
        found = [node for node in self.nodes if node.status is not None]
        if not found:
            raise SkippedError("no node answered")
        return found


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All of it.

    Attributes:
        checks: in the order in which they were made.
        ok: none failed.
    """

    checks: tuple[Check, ...]
    ok: bool
