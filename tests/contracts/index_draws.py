"""What the state machine of indexes draws its calls from."""

from hypothesis import strategies as st

from kvquilt_cache_node.index_types import Lease
from kvquilt_codec.catalog import GateMeta, Meta, ProfileMeta
from kvquilt_codec.forms import LOSSLESS, StorageForm
from kvquilt_codec.identity import PUBLIC
from kvquilt_codec.traces import DEPARTURES
from kvquilt_codec.types import Level
from tests.contracts.store_objects import CAPACITY, MODEL, TTL, meta_of

CHUNKS, PREFIXES = 3, 2
PROFILE, GATE = 10, 11
keys = st.integers(0, 11).map(lambda number: bytes([number]) * 32)
objects = st.integers(0, 7).map(lambda number: bytes([number]) * 32)
documents = st.sets(st.sampled_from(["one", "two", "three"])).map(sorted).map(tuple)
nodes = st.integers(0, 1)
reasons = st.sampled_from(DEPARTURES)
OWNERS = ("a", "b", PUBLIC)
scopes = st.one_of(st.none(), st.sets(st.sampled_from([*OWNERS, "c"])).map(sorted).map(tuple))
owners = st.sampled_from(["", *OWNERS])


MOST_PINNED = CAPACITY // 2
LEASE = Lease(TTL / 2, CAPACITY // 4)
NOTHING = bytes([99]) * 32


def described(key: bytes, held_by: tuple[str, ...], ttl: int = 0, *, renewed: bool = False) -> Meta:
    """Keys 8 and 9 are of objects coded with the profile 10, which the gate 11 was measured with."""
    number, digest = key[0], (bytes([PROFILE]) * 32).hex()
    if number == PROFILE:
        return ProfileMeta(MODEL)
    if number == GATE:
        return GateMeta(MODEL, digest)
    chunk = number % CHUNKS
    form = StorageForm(Level.HIGH, digest) if number > 7 else LOSSLESS
    owner = OWNERS[chunk]
    # What a text's fingerprints are depends on nothing but the text.
    stay = {"ttl": ttl * TTL, "renewed": renewed, "namespace": owner}
    return meta_of(*held_by, chunk=chunk, prefix=number % PREFIXES, form=form, fingerprints=[chunk, 9], **stay)
