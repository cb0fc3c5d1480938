"""The codec profile that is in force for a model: found at start, held in memory, kept on the cache node.

A router works without it: documents that are stored with a profile are then missed with a reason, and computed.
"""

import asyncio
import logging
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kvquilt_codec import errors
from kvquilt_codec.forms import StorageForm
from kvquilt_codec.joint import JointCoder
from kvquilt_codec.levels import LOSSLESS_POINT, LevelRequest, OperatingPoint, operating_point
from kvquilt_codec.profile import Profile, file
from kvquilt_codec.types import Level
from kvquilt_router.calibration.recipe import recipe
from kvquilt_router.engine.smollm2 import cache_dir
from kvquilt_router.retrying import until_done
from kvquilt_rpc.nodes import CacheNodes

log = logging.getLogger(__name__)

AUTO = "auto"
_START_DEADLINE = 10.0
"""A node that does not answer must not keep a router from starting."""
_GIVE_UP = (errors.FingerprintMismatchError, errors.CapacityError, errors.BadRequestError)


@dataclass(frozen=True, slots=True)
class _AtHand:
    data: bytes
    coder: JointCoder


def cached_path(model_fingerprint: str) -> Path:
    """Where the profile of a model that this version of calibration makes is cached on this machine."""
    return cache_dir() / f"profile-{model_fingerprint[:16]}-{recipe()[:8]}.safetensors"


def shipped_path(model_fingerprint: str) -> Path:
    """Where a profile that was measured elsewhere, and came with a package, is kept for the routers of this machine."""
    return cache_dir() / f"profile-{model_fingerprint[:16]}-shipped.safetensors"


def auto_path(model_fingerprint: str) -> Path | None:
    """The profile that `auto` means, its gate beside it: the one made on this machine, else the one that shipped."""
    paths = (cached_path(model_fingerprint), shipped_path(model_fingerprint))
    return next((path for path in paths if path.is_file()), None)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file by rename: a reader sees all of it or none, whoever else writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(data)
        Path(partial).rename(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def read_profile(path: Path, model_fingerprint: str) -> bytes:
    """The file of a profile for a model.

    Raises:
        NotFoundError: there is no such file.
        IntegrityError: it is no profile.
        FingerprintMismatchError: it is of another model.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise errors.NotFoundError(f"expected a profile in {path}; got {error}") from None
    check_model(file.load(data), model_fingerprint)
    return data


def check_model(profile: Profile, model_fingerprint: str) -> None:
    """Refuse a profile of another model.

    Raises:
        FingerprintMismatchError: see there.
    """
    if profile.model_fingerprint != model_fingerprint:
        raise errors.FingerprintMismatchError(
            f"expected a profile of model {model_fingerprint[:16]}...; it is of {profile.model_fingerprint[:16]}...: "
            "calibrate this model, in the type it computes in"
        )


class ModelProfile:
    """The profile of one model, or none.

    Args:
        nodes: that keep it.
        model_fingerprint: of the model.
        digest: of the profile in force; "" for none.
        deadline: seconds that a transfer may take.

    Attributes:
        miss_reason: why documents that are stored with the profile are missed; empty if it is at hand.
        stored_anew: set when a node got the profile, which it had not: it has not what goes with it either.
    """

    def __init__(self, nodes: CacheNodes, model_fingerprint: str, digest: str = "", *, deadline: float) -> None:
        self._nodes = nodes
        self._fingerprint = model_fingerprint
        self.digest = digest
        self._deadline = deadline
        self._at_hand: _AtHand | None = None
        self.miss_reason = "profile_missing" if digest else ""
        self.stored_anew = asyncio.Event()

    @property
    def profile(self) -> Profile | None:
        """What calibration measured, if it is at hand."""
        return None if self._at_hand is None else self._at_hand.coder.profile

    def take(self, data: bytes) -> None:
        """Use this file from now on.

        Raises:
            IntegrityError: it is no profile, or not of the digest.
            FingerprintMismatchError: it is of another model.
        """
        digest = file.digest(data)
        profile = file.load(data, self.digest or None)
        check_model(profile, self._fingerprint)
        self._at_hand = _AtHand(data, JointCoder(profile, digest))
        self.digest = digest
        self.miss_reason = ""

    def point(self, request: LevelRequest) -> OperatingPoint:
        """What a level is read from.

        While the profile is not at hand its levels are not known: the point then names an object that is missed.

        Raises:
            BadRequestError: a level that there is not.
        """
        if self.digest and self._at_hand is None:
            if request is Level.LOSSLESS:
                return LOSSLESS_POINT
            level = request if isinstance(request, Level) else Level.HIGH
            return OperatingPoint(level, StorageForm(Level.HIGH, self.digest))
        return operating_point(request, self.profile, self.digest)

    def coder(self, digest: str) -> JointCoder:
        """The coder of the profile in force.

        Raises:
            NotFoundError: it is not at hand, or the digest is another one's.
        """
        if self._at_hand is None or digest != self.digest:
            raise errors.NotFoundError(
                f"expected profile {digest[:16]}...; it is not at hand: `kvquilt profile put` gives it to the node",
                reason=self.miss_reason or "profile_missing",
            )
        return self._at_hand.coder

    async def fetch(self, deadline: float | None = None) -> None:
        """Get the profile from the node.

        Raises:
            KvquiltError: it cannot be had; `miss_reason` says which way.
        """
        try:
            data = await self._nodes.profiles.get(self.digest, self._fingerprint, deadline=deadline or self._deadline)
            await asyncio.to_thread(self.take, data)
        except errors.FingerprintMismatchError:
            self.miss_reason = "fingerprint_mismatch"
            raise
        except errors.IntegrityError:
            self.miss_reason = "profile_damaged"
            raise
        except errors.NotFoundError:
            if self.miss_reason != "profile_damaged":
                self.miss_reason = "profile_missing"
            raise

    async def publish(self) -> None:
        """Let all nodes have the profile that answer; does nothing if they have it, or if there is none.

        Raises:
            KvquiltError: no node takes it.
        """
        if self._at_hand is None:
            return
        data = self._at_hand.data
        if await self._nodes.profiles.put(data, self.digest, self._fingerprint, deadline=self._deadline):
            self.stored_anew.set()
            log.info("stored profile %s on the node", self.digest[:16])

    async def settle(self) -> None:
        """Fetch or publish, again and again until it is done or cannot be."""
        if self.digest:
            await until_done(self.fetch if self._at_hand is None else self.publish, "the profile", _GIVE_UP)


async def open_profile(setting: str, model_fingerprint: str, nodes: CacheNodes, *, deadline: float) -> ModelProfile:
    """The profile that `router.profile` names, as far as it can be had now.

    Args:
        setting: a file, a digest, "" for none, or "auto" for the one that is cached on this machine, if there is one.
        model_fingerprint: of the model to serve.
        nodes: the cache nodes; they may be down.
        deadline: seconds that a transfer may take.

    Raises:
        NotFoundError, IntegrityError: a file that is named is not there, or is no profile.
        FingerprintMismatchError: the profile is of another model.
    """
    if re.fullmatch("[0-9a-f]{64}", setting):
        named = ModelProfile(nodes, model_fingerprint, setting, deadline=deadline)
        try:
            await named.fetch(min(deadline, _START_DEADLINE))
        except errors.FingerprintMismatchError:
            raise
        except errors.KvquiltError as error:
            log.warning("documents are missed until the profile can be had: %s", error)
        return named
    found = ModelProfile(nodes, model_fingerprint, deadline=deadline)
    if data := await asyncio.to_thread(_local, setting, model_fingerprint):
        found.take(data)
    return found


def _local(setting: str, model_fingerprint: str) -> bytes | None:
    """The file that a setting names, if it names one."""
    if setting != AUTO:
        return read_profile(Path(setting).expanduser(), model_fingerprint) if setting else None
    path = auto_path(model_fingerprint)
    try:
        return None if path is None else read_profile(path, model_fingerprint)
    except errors.KvquiltError as error:
        log.warning("the cached profile %s is not used: %s", path, error)
        return None
