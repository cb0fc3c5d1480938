"""Whatever LMCache does one after the other, what it is told is what is there."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from tests.lmcache.objects import calling, content, key, memory

CHUNKS = st.lists(st.integers(0, 7), min_size=1, max_size=5, unique=True)
SALTS = st.sampled_from(["", "other"])


def machine(caller, run):
    """A machine that uses an adapter; keys of each run are its own."""

    class Sequences(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            run[0] += 1
            self.model = f"model/{run[0]}"
            self.there = {}

        def keys(self, chunks, salt):
            return [key(chunk, salt, self.model) for chunk in chunks]

        @rule(chunks=CHUNKS, salt=SALTS)
        def store(self, chunks, salt):
            keys = self.keys(chunks, salt)
            seeds = [2 * chunk + bool(salt) for chunk in chunks]
            stored = caller.store(keys, [memory(seed=seed) for seed in seeds])
            assert (stored > 0) == any(one not in self.there for one in keys)
            self.there |= dict(zip(keys, seeds, strict=True))

        @rule(chunks=CHUNKS, salt=SALTS)
        def lookup(self, chunks, salt):
            keys = self.keys(chunks, salt)
            assert caller.lookup(keys) == [at for at, one in enumerate(keys) if one in self.there]

        @rule(chunks=CHUNKS, salt=SALTS)
        def load(self, chunks, salt):
            keys = self.keys(chunks, salt)
            buffers = [memory() for _ in keys]
            assert caller.load(keys, buffers) == [at for at, one in enumerate(keys) if one in self.there]
            for one, buffer in zip(keys, buffers, strict=True):
                expected = memory(seed=self.there[one]) if one in self.there else memory()
                assert content(buffer) == content(expected)

        @rule(chunks=CHUNKS, salt=SALTS)
        def delete(self, chunks, salt):
            keys = self.keys(chunks, salt)
            caller.adapter.delete(keys)
            for one in keys:
                self.there.pop(one, None)

    return Sequences


@pytest.mark.parametrize("several", [False, True], ids=["one node", "two nodes"])
def test_any_sequence_of_calls(node, tmp_path, several):
    from tests.lmcache.nodes import node_at
    from tests.servers.process import running

    with running(node_at(tmp_path / "other")) as other:
        nodes = [node.address, other.address] if several else [node.address]
        with calling(*nodes, namespaces={"other": "public"}, lookup_deadline=60, load_deadline=60) as caller:
            run_state_machine_as_test(
                machine(caller, [0]),
                settings=settings(
                    max_examples=12, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
                ),
            )
            assert caller.counters["damaged"] == 0
