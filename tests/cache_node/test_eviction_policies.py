"""Eviction policies: what all promise, each against a plain reference, and the examples of their papers."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvquilt.simulator.replay import belady_of, replay
from kvquilt.simulator.types import Access, Trace
from kvquilt_cache_node.eviction import POLICIES, Entry, EvictionPolicy, Key, make_policy
from kvquilt_cache_node.eviction.arc import Arc
from kvquilt_cache_node.eviction.s3_fifo import S3Fifo
from kvquilt_codec.errors import BadRequestError

CAPACITY = 1000

accesses = st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1, max_size=200)
"""Key, and whether the object is removed rather than used."""


def size_of(key: int) -> int:
    return (70, 100, 330)[key % 3]


def cost_of(key: int) -> float:
    return (0.25, 4.0, 0.0, 1.0)[key % 4]


def drive(policy: EvictionPolicy, sequence: list[tuple[int, bool]]) -> list[Key]:
    """Use a policy as a store of `CAPACITY` bytes does; the keys that went to make room."""
    held: dict[Key, int] = {}
    gone: list[Key] = []
    for key, removed in sequence:
        if removed:
            policy.remove(key)
            held.pop(key, None)
        elif key in held:
            policy.use(key)
        else:
            while sum(held.values()) + size_of(key) > CAPACITY:
                victim = policy.evict()
                del held[victim]  # a KeyError: it was not there
                gone.append(victim)
            policy.insert(key, Entry(size_of(key), cost_of(key)))
            held[key] = size_of(key)
        assert sum(held.values()) <= CAPACITY
        assert len(policy) == len(held)
        assert all((key in policy) == (key in held) for key in range(31))
    return gone


@pytest.mark.parametrize("name", POLICIES)
@given(sequence=accesses)
@settings(max_examples=40, deadline=None)
def test_a_policy_knows_what_is_there_and_lets_go_of_that_only(name: str, sequence: list[tuple[int, bool]]) -> None:
    policy = make_policy(name, CAPACITY, Random(1))
    drive(policy, sequence)
    left = {policy.evict() for _ in range(len(policy))}
    assert len(policy) == 0
    assert not any(key in policy for key in left)
    with pytest.raises(KeyError):
        policy.evict()
    with pytest.raises(KeyError):
        policy.use("never there")


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_there_cannot_come_in_again(name: str) -> None:
    policy = make_policy(name, CAPACITY, Random(1))
    policy.insert("key", Entry(1))
    with pytest.raises(ValueError, match="'key'"):
        policy.insert("key", Entry(1))


def test_an_unknown_policy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadRequestError, match=r"hit-density, .*; got 'belady'"):
        make_policy("belady", CAPACITY, Random(1))


# References: every choice looks at every object.


@dataclass
class Known:
    entry: Entry
    last: int
    uses: int = 0
    priority: float = 0.0


@dataclass
class Reference:
    """Evicts the object whose rank is lowest; `rank` sees the object and the clock, the last evicted priority."""

    rank: Callable[[Known, float], float]
    known: dict[Key, Known] = field(default_factory=dict)
    clock: float = 0.0
    turns: Iterator[int] = field(default_factory=itertools.count)

    def insert(self, key: Key, entry: Entry) -> None:
        self.known[key] = Known(entry, next(self.turns))
        self.known[key].priority = self.rank(self.known[key], self.clock)

    def use(self, key: Key) -> None:
        known = self.known[key]
        known.last, known.uses = next(self.turns), known.uses + 1
        known.priority = self.rank(known, self.clock)

    def remove(self, key: Key) -> None:
        self.known.pop(key, None)

    def evict(self) -> Key:
        key = min(self.known, key=lambda key: (self.known[key].priority, self.known[key].last))
        self.clock = self.known.pop(key).priority
        return key

    def __contains__(self, key: object) -> bool:
        return key in self.known

    def __len__(self) -> int:
        return len(self.known)


RANKS: dict[str, Callable[[Known, float], float]] = {
    "lru": lambda known, clock: 0.0,
    "lfu": lambda known, clock: known.uses,
    "gdsf": lambda known, clock: clock + (known.uses + 1) * max(known.entry.cost, 1e-6) / known.entry.size,
}


@pytest.mark.parametrize("name", RANKS)
@given(sequence=accesses)
@settings(max_examples=60, deadline=None)
def test_ranked_policies_agree_with_a_scan_of_all_objects(name: str, sequence: list[tuple[int, bool]]) -> None:
    assert drive(make_policy(name, CAPACITY, Random(1)), sequence) == drive(Reference(RANKS[name]), sequence)


def test_a_heap_of_a_million_uses_stays_small() -> None:
    policy = make_policy("gdsf", CAPACITY, Random(1))
    for key in range(10):
        policy.insert(key, Entry(1, 1.0))
    for _ in range(2000):
        policy.use(3)
    assert len(policy._heap) < 200  # type: ignore[attr-defined]
    assert [policy.evict() for _ in range(10)] == [0, 1, 2, 4, 5, 6, 7, 8, 9, 3]


# Examples


def of_pages(policy: EvictionPolicy, capacity: int, pages: str) -> list[Key]:
    """What goes when pages of one byte are asked for in this order."""
    gone: list[Key] = []
    for page in pages:
        if page in policy:
            policy.use(page)
            continue
        if len(policy) == capacity:
            gone.append(policy.evict())
        policy.insert(page, Entry(1))
    return gone


def test_arc_keeps_what_was_used_again_through_a_scan() -> None:
    """Megiddo and Modha, section 3.3: a scan passes through T1 and leaves T2 alone."""
    assert of_pages(Arc(4), 4, "abab123456") == list("1234")


def test_arc_gives_room_to_what_comes_back() -> None:
    policy = Arc(4)
    assert of_pages(policy, 4, "abab1234") == list("12")
    assert of_pages(policy, 4, "12") == list("3a"), "a hit in B1 gives T1 a page: then T2 has to give one"


def test_s3_fifo_lets_go_of_what_is_used_once_and_takes_back_what_it_regrets() -> None:
    policy = S3Fifo(10)
    assert of_pages(policy, 10, "aaabcdefghij") == []
    assert of_pages(policy, 10, "k") == ["b"], "a was used more than once in the small queue: it moves to main"
    assert of_pages(policy, 10, "b") == ["c"]
    assert of_pages(policy, 10, "lmnopqrstu") == list("defghijklm"), "b came back from the ghosts to main"
    assert {"a", "b"} <= {page for page in "abcdefghijklmnopqrstu" if page in policy}


@cache
def most_hits(pages: str, capacity: int, held: frozenset[str] = frozenset()) -> int:
    """By trying everything, bypassing included."""
    if not pages:
        return 0
    page, rest = pages[0], pages[1:]
    if page in held:
        return 1 + most_hits(rest, capacity, held)
    room = [held | {page}] if len(held) < capacity else [(held | {page}) - {gone} for gone in (*held, page)]
    return max(most_hits(rest, capacity, choice) for choice in room)


@given(pages=st.text("abcde", max_size=12), capacity=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_nothing_hits_more_often_than_belady(pages: str, capacity: int) -> None:
    trace = Trace("any", [[Access(page, 1, 1.0)] for page in pages])
    bound = replay(trace, belady_of(trace), capacity, bypass=True).hit_rate
    assert round(bound * len(pages)) == most_hits(pages, capacity)
    for name in POLICIES:
        assert replay(trace, make_policy(name, capacity, Random(1)), capacity).hit_rate <= bound


def test_random_draws_every_object_alike() -> None:
    counts = Counter[Key]()
    random = Random(7)
    for _ in range(600):
        policy = make_policy("random", CAPACITY, random)
        for key in "abc":
            policy.insert(key, Entry(1))
        counts[policy.evict()] += 1
    assert set(counts) == set("abc")
    assert min(counts.values()) > 150
