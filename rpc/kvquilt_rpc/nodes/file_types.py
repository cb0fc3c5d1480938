"""The vocabulary of files that all nodes keep beside objects: codec profiles, gates, and what audits found of these."""

from typing import Protocol

from kvquilt_codec.catalog import ProfileInfo
from kvquilt_codec.gate.audits import GateAudits
from kvquilt_rpc.node_files import AuditsHeard


class StoredProfiles(Protocol):
    """The codec profiles of all nodes."""

    async def put(self, data: bytes, digest: str, model_fingerprint: str, *, deadline: float) -> bool:
        """Let every node that answers have a profile; whether one had it not.

        Raises:
            KvquiltError: no node took it.
        """

    async def get(self, digest: str, model_fingerprint: str = "", *, deadline: float) -> bytes:
        """A profile's file from any node; errors as in `NodeProfiles.get`."""

    async def list(self, *, deadline: float) -> list[ProfileInfo]:
        """The profiles that nodes have.

        Raises:
            KvquiltError: no node answered.
        """


class StoredGates(Protocol):
    """The gates of all nodes."""

    async def put(self, data: bytes, *, deadline: float) -> bool:
        """As `StoredProfiles.put`."""

    async def get(self, profile_digest: str, model_fingerprint: str, *, deadline: float) -> bytes:
        """A gate's file from any node; errors as in `NodeGates.get`."""


class StoredAudits(Protocol):
    """What audits found of gates, as all nodes keep it."""

    async def merge(self, known: GateAudits, *, deadline: float) -> AuditsHeard:
        """Give every node what is known of a gate, and get what those know that answer.

        Raises:
            KvquiltError: no node answered.
        """
