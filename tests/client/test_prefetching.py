"""A prefetcher stores what it is offered, keeps nobody waiting, and turns every fault into a count."""

import threading

import pytest

from kvquilt import Client, Document, KvquiltError
from kvquilt.prefetching import PrefetchCounts, Prefetcher
from kvquilt_codec.errors import BadRequestError
from tests.stack import serve


@pytest.fixture(scope="module")
def router(smollm2, tmp_path_factory):
    with serve(smollm2, tmp_path_factory.mktemp("store"), warm_up_passages=0) as address:
        yield address


def test_what_is_offered_is_stored_and_not_asked_about_again_until_it_changes(router):
    document = Document("a", "The salt works stand by the sea.\n\n")
    changed = Document("a", "The salt works stood by the sea.\n\n")
    with Client(router) as client, Prefetcher(client) as prefetcher:
        prefetcher.offer([document, Document("empty", "")])
        assert prefetcher.wait(60)
        assert prefetcher.counts == PrefetchCounts(stored=1)
        prefetcher.offer([document, changed])
        assert prefetcher.wait(60)
        assert prefetcher.counts == PrefetchCounts(stored=2, fresh=1)
        plan = client.plan([changed.content, "Where?"])
        assert {chunk.miss_reason for chunk in plan.chunks} == {""}
    with Client(router) as client, Prefetcher(client, fresh_seconds=0) as prefetcher:
        for _ in range(2):
            prefetcher.offer([document])
            assert prefetcher.wait(60)
        assert prefetcher.counts == PrefetchCounts(present=2)


def test_two_documents_of_one_id_are_both_stored(router):
    with Client(router) as client, Prefetcher(client) as prefetcher:
        prefetcher.offer([Document("twice", "Bees cool the hive.\n\n"), Document("twice", "Bees warm the hive.\n\n")])
        assert prefetcher.wait(60)
        assert prefetcher.counts == PrefetchCounts(stored=2)


def test_a_document_that_cannot_be_stored_costs_the_others_nothing(router):
    with Client(router) as client, Prefetcher(client) as prefetcher:
        bad = Document("bad", [2**31])  # no token of any model
        prefetcher.offer([Document("good 1", "Tea is dried.\n\n"), bad, Document("good 2", "Maps are drawn.\n\n")])
        assert prefetcher.wait(60)
        assert prefetcher.counts == PrefetchCounts(stored=2, failed=1)


def test_a_router_that_is_not_there_is_a_count_and_no_error():
    with Client("127.0.0.1:1") as client, Prefetcher(client, deadline=5) as prefetcher:
        prefetcher.offer([Document("a", "text")])
        assert prefetcher.wait(60)
        assert prefetcher.counts == PrefetchCounts(failed=1)


class Stuck:
    """A client whose router never answers, until it is let go."""

    def __init__(self) -> None:
        self.asked, self.go = threading.Event(), threading.Event()

    def prefetch(self, documents, **options):
        self.asked.set()
        self.go.wait()
        raise KvquiltError("let go")


def test_beyond_its_room_documents_are_dropped_and_an_offer_never_waits():
    stuck = Stuck()
    prefetcher = Prefetcher(stuck, waiting=2)
    prefetcher.offer([Document("first", "text")])
    stuck.asked.wait()
    prefetcher.offer([Document(str(number), "text") for number in range(5)])
    assert prefetcher.counts == PrefetchCounts(dropped=3)
    assert not prefetcher.wait(0.01)
    stuck.go.set()
    assert prefetcher.wait(60)
    prefetcher.close()
    prefetcher.offer([Document("late", "text")])
    assert prefetcher.counts == PrefetchCounts(failed=3, dropped=4)
    prefetcher.close()


def test_room_for_nothing_is_refused():
    with pytest.raises(BadRequestError, match="at least one document"):
        Prefetcher(Stuck(), waiting=0)
