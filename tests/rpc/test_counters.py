"""Counters: declared names only, nothing lost between threads."""

import threading

import pytest

from kvquilt_rpc.counters import Counters


def test_all_counters_are_shown_from_the_start_in_the_order_of_their_names() -> None:
    assert list(Counters(["b", "c", "a"]).snapshot().items()) == [("a", 0), ("b", 0), ("c", 0)]


def test_counters_add_up() -> None:
    counters = Counters(["hits", "bytes"])
    counters.add("hits")
    counters.add("hits")
    counters.add("bytes", 1 << 40)
    assert counters.snapshot() == {"hits": 2, "bytes": 1 << 40}


def test_an_undeclared_counter_is_a_mistake_that_shows() -> None:
    counters = Counters(["hits"])
    with pytest.raises(KeyError, match="hit"):
        counters.add("hit")
    assert counters.snapshot() == {"hits": 0}


def test_a_snapshot_is_a_copy() -> None:
    counters = Counters(["hits"])
    snapshot = counters.snapshot()
    counters.add("hits")
    snapshot["hits"] += 10
    assert counters.snapshot() == {"hits": 1}


def test_nothing_is_lost_between_threads() -> None:
    counters = Counters(["hits"])
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        for _ in range(5_000):
            counters.add("hits")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters.snapshot() == {"hits": 40_000}
