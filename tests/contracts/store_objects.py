"""Numbered objects and a clock for the contract of stores."""

from collections.abc import Callable, Sequence

from kvquilt_cache_node.types import Store
from kvquilt_codec.catalog import ContextSource, ObjectMeta
from kvquilt_codec.fingerprints import FINGERPRINT_BYTES, pack
from kvquilt_codec.forms import LOSSLESS, StorageForm
from kvquilt_codec.identity import PUBLIC
from kvquilt_codec.lifetime import Lifetime
from kvquilt_codec.types import VariantKind

Clock = Callable[[], float]
TTL = 1e6
"""Seconds, more than tests take: their clocks go on by one at every call."""
CAPACITY = 1000


def key_of(number: int) -> bytes:
    """Key of a numbered object."""
    return number.to_bytes(32, "little")


def data_of(number: int, size: int) -> bytes:
    """Bytes of a numbered object; those of different objects differ in every place."""
    return bytes((number * 31 + place) % 256 for place in range(size))


MODEL = "ab" * 32
SOURCES = (ContextSource(b"\x05" * 32, 12, 0.75), ContextSource(b"\x06" * 32, 4096, 0.0))


def digest_of(number: int) -> bytes:
    """Any numbered digest: of a chunk, a context, a prefix."""
    return number.to_bytes(32, "big")


def meta_of(
    *documents: str,
    chunk: int = 0,
    prefix: int = 0,
    model: str = MODEL,
    kind: VariantKind = VariantKind.BASE,
    form: StorageForm = LOSSLESS,
    fingerprints: Sequence[int] = (),
    namespace: str = PUBLIC,
    ttl: float = 0.0,
    renewed: bool = False,
) -> ObjectMeta:
    """Description of an object that these documents hold; fingerprint i is at offset i."""
    packed = pack([(number, fingerprint_of(number)) for number in fingerprints])
    digests = (digest_of(chunk), digest_of(900), digest_of(prefix))
    lifetime = Lifetime(ttl, renewed, until=9e9) if ttl else None
    return ObjectMeta(model, documents, 17, kind, form, 0.5, *digests, SOURCES, 3.25, packed, namespace, lifetime)


def fingerprint_of(number: int) -> bytes:
    """A numbered fingerprint."""
    return number.to_bytes(FINGERPRINT_BYTES, "big")


class Ticking:
    """A clock that is one second later at every call, and may be set forward."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def ticking() -> Ticking:
    """Such a clock."""
    return Ticking()


async def keys_in(store: Store) -> list[int]:
    """Numbers of the objects in a store, the most recently used first."""
    return [int.from_bytes(info.key, "little") for info in await store.list()]


async def put(store: Store, number: int, size: int = 100, *documents: str) -> bool:
    """Put a numbered object."""
    return await store.put_if_absent(key_of(number), data_of(number, size), meta_of(*documents))


async def assert_sound(store: Store) -> None:
    """The cap holds, nothing is reserved, and every listed object can be read at its listed size."""
    usage, infos = await store.usage(), await store.list()
    assert usage.capacity_bytes == CAPACITY
    assert usage.used_bytes == sum(info.stored_bytes for info in infos) <= CAPACITY
    assert usage.objects == len(infos)
    for info in infos:
        (data,) = await store.get(info.key)
        assert data == data_of(int.from_bytes(info.key, "little"), info.stored_bytes)
