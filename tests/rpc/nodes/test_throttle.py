"""What callers spare a node that refuses them, by a clock and a chance of the test's own."""

import math
import random
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvquilt_codec.errors import CapacityError, DeadlineError, NotFoundError, UnavailableError
from kvquilt_rpc.admission import OVERLOADED
from kvquilt_rpc.nodes.throttle import SparedError, Throttle
from tests.rpc.nodes.clock import Clock

WINDOW, FACTOR = 2.0, 1.25


class Node:
    """A node that takes so many calls a second and refuses the others, and a caller of it."""

    def __init__(self, factor: float = FACTOR) -> None:
        self.clock = Clock()
        self.spared = 0
        self.capacity = math.inf
        self._room = 0.0
        self._at = self.clock.now
        self._chance = random.Random(1)
        self.throttle = Throttle("node", self.clock, factor=factor, window=WINDOW, spared=self._told)

    def _told(self) -> None:
        self.spared += 1

    def call(self, chance: float | None = None, error: Exception | None = None) -> str:
        """What came of a call: "taken", "refused" by the node, or "spared"."""
        try:
            with self.throttle.call("look-up", self._chance.random() if chance is None else chance):
                if error is not None:
                    raise error
                self._work()
        except SparedError:
            return "spared"
        except CapacityError:
            return "refused"
        return "taken"

    def _work(self) -> None:
        if self.capacity == math.inf:
            return
        self._room = min(4.0, self._room + (self.clock.now - self._at) * self.capacity)
        self._at = self.clock.now
        if self._room < 1:
            raise CapacityError("expected room", reason=OVERLOADED)
        self._room -= 1

    def load(self, rate: float, seconds: float) -> dict[str, int]:
        """So many calls a second, for so long."""
        found = {"taken": 0, "refused": 0, "spared": 0}
        for _ in range(round(rate * seconds)):
            self.clock.now += 1 / rate
            found[self.call()] += 1
        return found


def test_to_who_asks_it_is_what_the_node_would_have_said() -> None:
    node = Node()
    node.call(error=CapacityError("expected room", reason=OVERLOADED))
    said = "expected node node to take a look-up; it has too much to do"
    with pytest.raises(CapacityError, match=said) as caught, node.throttle.call("look-up", 0.0):
        pytest.fail("it is not made")
    assert (caught.value.reason, caught.value.retry_after) == (OVERLOADED, 0.25)
    assert node.spared == 1


def test_the_probability_is_that_of_the_book() -> None:
    node = Node(factor=2.0)
    assert node.throttle.probability == 0
    for _ in range(3):
        node.call(chance=1.0)
    for _ in range(9):
        node.call(chance=1.0, error=CapacityError("expected room", reason=OVERLOADED))
    assert node.throttle.probability == (12 - 2.0 * 3) / 13
    assert node.call(chance=(12 - 2.0 * 3) / 13 - 1e-9) == "spared"
    assert node.throttle.probability == (13 - 2.0 * 3) / 14, "what was spared counts as asked for"
    assert node.call(chance=(13 - 2.0 * 3) / 14) == "taken"


@pytest.mark.parametrize("factor", [1.25, 2.0])
@pytest.mark.parametrize("times", [1.5, 3.0, 10.0])
def test_a_node_gets_about_factor_times_what_it_takes(factor: float, times: float) -> None:
    node = Node(factor)
    node.capacity = 200.0
    node.load(times * 200, 4 * WINDOW)
    found = node.load(times * 200, 4 * WINDOW)
    made = found["taken"] + found["refused"]
    assert found["taken"] == pytest.approx(200 * 4 * WINDOW, rel=0.05), "it is kept busy"
    assert made / found["taken"] == pytest.approx(min(factor, times), rel=0.1)


@given(st.lists(st.sampled_from(["taken", "not_found", "deadline", "limited", "wait"]), max_size=300), st.floats(0, 1))
def test_nothing_is_spared_a_node_that_refuses_nothing(steps: list[str], chance: float) -> None:
    errors = {
        "taken": None,
        "not_found": NotFoundError("expected an object"),
        "deadline": DeadlineError("expected an answer"),
        "limited": CapacityError("expected fewer", reason="rate_limited"),
    }
    node = Node()
    for step in steps:
        if step == "wait":
            node.clock.now += WINDOW / 3
            continue
        with suppress(NotFoundError, DeadlineError):
            node.call(chance, errors[step])
        assert node.throttle.probability == 0
    assert node.spared == 0


def test_what_is_not_answered_in_time_was_not_taken_and_what_cannot_be_reached_says_nothing() -> None:
    node = Node()
    with pytest.raises(UnavailableError):
        node.call(error=UnavailableError("expected a node"))
    node.call(error=CapacityError("expected room", reason=OVERLOADED))
    assert node.throttle.probability == 1 / 2
    with pytest.raises(DeadlineError):
        node.call(chance=1.0, error=DeadlineError("expected an answer"))
    assert node.throttle.probability == 2 / 3


def test_a_few_refusals_spare_nothing() -> None:
    node = Node()
    node.capacity = 190.0
    assert node.load(200, 20)["spared"] == 0, "one in twenty is less than factor allows for"


@pytest.mark.parametrize("rate", [20, 200, 2000])
def test_a_node_that_takes_all_again_gets_all_again_within_a_window(rate: float) -> None:
    node = Node()
    node.capacity = 0.0
    assert node.load(rate, 10 * WINDOW)["taken"] == 0
    node.capacity = math.inf
    node.load(rate, WINDOW + 0.01)
    assert node.load(rate, 5 * WINDOW) == {"taken": round(rate * 5 * WINDOW), "refused": 0, "spared": 0}


def test_a_call_is_made_every_quarter_of_a_second_whatever_the_node_refuses() -> None:
    node = Node()
    node.capacity = 0.0
    node.load(2000, WINDOW)
    found = node.load(2000, 10.0)
    assert 40 <= found["refused"] <= 60
    assert node.load(3, 10.0) == {"taken": 0, "refused": 30, "spared": 0}, "who asks rarely is spared nothing"


def test_every_call_is_made_without_a_bound() -> None:
    node = Node(math.inf)
    node.capacity = 100.0
    assert node.load(1000, 3 * WINDOW)["spared"] == 0
