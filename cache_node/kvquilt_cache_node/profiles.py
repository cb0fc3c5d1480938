"""The codec profiles of a node: kept in its store by digest, made ready when an object needs one."""

import asyncio
from collections import OrderedDict

from kvquilt_cache_node.types import Store
from kvquilt_codec.catalog import ProfileInfo, ProfileMeta
from kvquilt_codec.errors import BadRequestError, FingerprintMismatchError, IntegrityError, NotFoundError
from kvquilt_codec.joint import JointCoder
from kvquilt_codec.profile import Profile, file
from kvquilt_rpc.counters import Counters

CODERS_KEPT = 4
"""Coders ready for use. One takes about twice its profile's file in memory."""


class Profiles:
    """Checks, stores and serves profiles. Nothing is served whose SHA-256 is not its name."""

    def __init__(self, store: Store, counters: Counters) -> None:
        self._store = store
        self._counters = counters
        self._coders: OrderedDict[str, JointCoder] = OrderedDict()
        self._loading = asyncio.Lock()
        self._models: dict[str, str] = {}

    async def put(self, digest: str, data: bytes, model_fingerprint: str) -> bool:
        """Store a profile; `False` if it was there already.

        Raises:
            IntegrityError: other bytes than the digest's, or no profile.
            BadRequestError: it is of another model than the caller says.
            CapacityError: it does not fit into the store.
        """
        profile = await asyncio.to_thread(file.load, data, digest)
        if profile.model_fingerprint != model_fingerprint:
            raise BadRequestError(
                f"expected a profile of model {model_fingerprint[:16]!r}; it is of {profile.model_fingerprint[:16]}"
            )
        self._models[digest] = model_fingerprint
        stored = await self._store.put_if_absent(bytes.fromhex(digest), data, ProfileMeta(model_fingerprint))
        self._counters.add("profiles_stored", int(stored))
        return stored

    async def get(self, digest: str, model_fingerprint: str = "") -> tuple[bytes, Profile]:
        """A profile and its file; a damaged one is deleted, so that it can be stored again.

        Raises:
            NotFoundError: the store has it not.
            IntegrityError: what the store has is damaged.
            FingerprintMismatchError: it is of another model than the given one.
        """
        key = bytes.fromhex(digest)
        try:
            (data,) = await self._store.get(key)
            profile = await asyncio.to_thread(file.load, data, digest)
        except NotFoundError:
            raise _missing(digest) from None
        except IntegrityError as error:
            self._counters.add("profiles_damaged")
            await self._store.forget([key], [])
            raise IntegrityError(f"expected an intact profile; {error}", reason="profile_damaged") from None
        self._models[digest] = profile.model_fingerprint
        if model_fingerprint not in ("", profile.model_fingerprint):
            raise FingerprintMismatchError(
                f"expected a profile of model {model_fingerprint[:16]!r}...; this one is of "
                f"{profile.model_fingerprint[:16]}...: calibrate this model"
            )
        await self._store.touch([key])
        return data, profile

    async def coder(self, digest: str) -> JointCoder:
        """A profile, made ready to code with; errors as in `get`."""
        async with self._loading:
            if digest in self._coders:
                self._coders.move_to_end(digest)
            else:
                _, profile = await self.get(digest)
                while len(self._coders) >= CODERS_KEPT:
                    self._coders.popitem(last=False)
                self._coders[digest] = await asyncio.to_thread(JointCoder, profile, digest)
            return self._coders[digest]

    async def list(self) -> list[ProfileInfo]:
        """The stored profiles."""
        return await self._store.profiles()

    async def require(self, digest: str, model_fingerprint: str) -> None:
        """Refuse to store what no reader of this store could decode.

        Raises:
            NotFoundError: the store has not the profile.
            IntegrityError: what it has is damaged.
            FingerprintMismatchError: it is of another model.
        """
        if digest not in self._models:
            await self.get(digest)
        try:
            await self._store.get(bytes.fromhex(digest), [(0, 0)])
        except NotFoundError:
            raise _missing(digest) from None
        if self._models[digest] != model_fingerprint:
            raise FingerprintMismatchError(
                f"expected a profile of model {model_fingerprint[:16]!r}; it is of {self._models[digest][:16]}"
            )


def _missing(digest: str) -> NotFoundError:
    return NotFoundError(
        f"expected the profile {digest[:16]}... in the store; it is not there: put it first, for instance with "
        "`kvquilt profile put`",
        reason="profile_missing",
    )
