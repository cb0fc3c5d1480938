"""Pods of the trial and of the production are replaced, added, taken away and killed under load: no request fails."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from drills.tiny_model import TOLERANCE
from kvquilt import Client, Credentials
from kvquilt_rpc.node_client import NodeClient
from tests.helm.chart import host, render
from tests.helm.cluster import Cluster, Pod, Pods, replicas
from tests.helm.load import Load, asked
from tests.helm.placed import Placed
from tests.helm.releases import production, valkey_of, with_demo_model
from tests.names import name_server
from tests.servers import REDIS
from tests.stack import eventually

SETTINGS: Mapping[str, Mapping[str, float]] = {
    "trial": {"max_connection_age": 3.0, "resolve_seconds": 0.5},
    "production": {"max_connection_age": 3.0},
}
"""Tests do not wait for the five minutes of a connection. The trial has one node, so that nothing can be stored between
its end and the next look-up of its name; in a cluster it waits for that in `preStop`, and here both are hurried."""
VOCABULARIES = {"trial": range(1000, 20_000), "production": range(30, 500)}
DEADLINE = 60.0


@dataclass(frozen=True)
class Release:
    """A release that runs, and what asks it; `operator` may see all, where anybody is asked who calls."""

    cluster: Cluster
    nodes: Pods
    routers: Pods
    load: Load
    operator: Credentials | None

    def right(self) -> None:
        """Of the load so far nothing failed and nothing was wrong."""
        assert not self.load.failed, self.load.failed[:5]
        assert self.load.difference < TOLERANCE

    def counters(self, router: Pod) -> dict[str, int]:
        """Of one router."""
        name = host(self.routers.name)
        with name_server() as names:
            names.addresses[name] = [router.address]
            with Client(names.target(name, 7410), credentials=self.operator) as client:
                return client.status(deadline=DEADLINE).counters

    async def used(self, node: Pod) -> int:
        """Gets and puts at one node."""
        folder = self.routers.running[0].how.mounts.get("/etc/kvquilt/node-client")
        credentials = None
        if folder is not None:
            files = {"tls_ca": "ca.crt", "tls_cert": "tls.crt", "tls_key": "tls.key"}
            credentials = Credentials(**{name: folder / file for name, file in files.items()})
        client = NodeClient(f"{node.address}:{node.how.port}", credentials, host("kvquilt-nodes"))
        try:
            counters = dict((await client.status(deadline=DEADLINE)).counters)
        finally:
            await client.close()
        return counters["gets"] + counters["puts_stored"]


@pytest.fixture(scope="module", params=["trial", "production"])
def release(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    size = request.param
    folder = tmp_path_factory.mktemp(size)
    values = {"router": {"settings": SETTINGS[size]}}
    with ExitStack() as stack:
        names = stack.enter_context(name_server())
        credentials = operator = None
        if size == "trial":
            model = request.getfixturevalue("smollm2")
            cluster = Cluster(Placed(render(values, size), folder), names, prepare=with_demo_model)
            address = cluster.address()
            stack.enter_context(valkey_of(cluster.placed, address, 6379))
            cluster.publish({"kvquilt-valkey": [address]})
        else:
            if REDIS is None:
                pytest.skip("TLS takes the redis-server of the operating system")
            found = stack.enter_context(production(folder, values))
            model, credentials, operator = found.model, found.credentials, found.operator
            cluster = Cluster(found.placed, names, found.identity)
        stack.callback(cluster.close)
        (name,) = (name for name, _ in cluster.placed.rendered.pods() if name.startswith("kvquilt-router"))
        nodes, routers = Pods(cluster, "kvquilt-node"), Pods(cluster, name)
        for pods in (nodes, routers):
            pods.scale(replicas(cluster.placed.rendered, pods.name))
        load = Load(
            names.target(host(f"{name}-all"), 7410), credentials, asked(model, VOCABULARIES[size]), VOCABULARIES[size]
        )
        yield Release(cluster, nodes, routers, load, operator)


def test_what_was_stored_is_served(release: Release) -> None:
    with release.load.client() as client:
        for text in release.load.texts:
            eventually(lambda text=text: release.load.blend(client, text))
    release.right()


def test_a_rolling_restart_of_nodes_and_then_of_routers_loses_no_request(release: Release) -> None:
    with release.load.running():
        release.load.more()
        release.nodes.roll()
        release.load.more()
        release.routers.roll()
        release.load.more()
    release.right()


async def test_nodes_and_routers_that_are_added_take_their_part(release: Release) -> None:
    with release.load.running():
        known = len(release.nodes.running), len(release.routers.running)
        release.nodes.scale(known[0] + 2)
        release.routers.scale(known[1] + 1)
        for node in release.nodes.running[known[0] :]:
            while not await release.used(node):
                release.load.more(1, 0)
        for router in release.routers.running[known[1] :]:
            while not release.counters(router)["blends"]:
                release.load.more(1, 0)
    release.right()


def test_nodes_and_routers_that_are_taken_away_are_not_missed(release: Release) -> None:
    release.nodes.scale(max(3, len(release.nodes.running)))
    release.routers.scale(max(2, len(release.routers.running)))
    with release.load.running():
        release.load.more()
        release.nodes.scale(len(release.nodes.running) - 2)
        release.routers.scale(len(release.routers.running) - 1)
        release.load.more()
    release.right()


def test_a_node_that_is_killed_costs_no_request(release: Release) -> None:
    victim = release.nodes.running[0]
    release.nodes.scale(len(release.nodes.running) + 1)  # the trial has one
    with release.load.running():
        release.load.more()
        release.nodes.kill(victim)
        release.load.more()
        release.nodes.revive(victim)
        release.load.more()
    release.right()


def test_what_was_acknowledged_meanwhile_is_there(release: Release) -> None:
    """Last."""
    with release.load.running():
        release.load.more()
    with release.load.client() as client:
        assert all(release.load.found(client, document) for document in release.load.stored)
