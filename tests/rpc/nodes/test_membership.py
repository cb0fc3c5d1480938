"""Who the nodes are: addresses, names, and name servers that fail, hang or change their minds."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from kvquilt_codec.errors import BadRequestError
from kvquilt_rpc.nodes.membership import Membership, parse_address
from kvquilt_rpc.nodes.placement import Site


class Names:
    """A name server."""

    def __init__(self, *addresses: str) -> None:
        self.addresses: Sequence[str] | OSError = addresses
        self.go_on = threading.Event()
        self.go_on.set()
        self.asked = 0

    def __call__(self, host: str, port: int) -> Sequence[str]:
        assert (host, port) == ("nodes.test", 7411)
        self.asked += 1
        self.go_on.wait(60)
        if isinstance(self.addresses, OSError):
            raise self.addresses
        return self.addresses


def opened(*entries: str, names: Names, every: float = 30.0) -> tuple[Membership, list[list[Site]]]:
    told: list[list[Site]] = []
    return Membership(entries, lambda sites: told.append(list(sites)), every=every, resolver=names), told


@pytest.mark.parametrize(
    ("entry", "weight", "host"),
    [
        ("127.0.0.1:7411", 1, ""),
        ("node-3.cache:7411=2.5", 2.5, ""),
        ("[::1]:7411", 1, ""),
        ("unix:/run/kvquilt.sock", 1, ""),
        ("dns:///nodes.cache.svc:7411=3", 3, "nodes.cache.svc"),
    ],
)
def test_addresses(entry, weight, host):
    address = parse_address(entry)
    assert (address.text, address.weight, address.host) == (entry.partition("=")[0], weight, host)


@pytest.mark.parametrize(
    "entry", ["", "node", "node:", "node:0", "node:65536", ":7411", "a b:1", "node:1=0", "node:1=x", "node:1=nan",
              "dns:///", "dns:///x", "http://node:1", "node:1=1e9"]
)  # fmt: skip
def test_what_is_no_address_is_refused(entry):
    with pytest.raises(BadRequestError, match="expected"):
        parse_address(entry)


async def test_every_address_of_a_name_is_a_member_once():
    names = Names("10.0.0.2:7411", "10.0.0.1:7411")
    membership, told = opened("dns:///nodes.test:7411=2", "10.0.0.2:7411", "other:1", names=names)
    await membership.refresh()
    assert told == [[Site("10.0.0.1:7411", 2), Site("10.0.0.2:7411", 2), Site("other:1")]]
    await membership.refresh()
    assert len(told) == 1, "nothing changed, whatever the order of the answer"


async def test_members_follow_the_name_without_a_restart():
    names = Names()
    told: asyncio.Queue[Sequence[Site]] = asyncio.Queue()
    membership = Membership(["dns:///nodes.test:7411"], told.put_nowait, every=0.01, resolver=names)
    await membership.refresh()
    watching = asyncio.create_task(membership.run())
    assert await told.get() == []
    for addresses in (("a:1",), ("a:1", "b:1"), (), ("b:1",)):
        names.addresses = addresses
        assert await asyncio.wait_for(told.get(), 60) == [Site(name) for name in addresses]
    watching.cancel()


async def test_a_name_server_that_fails_takes_no_member_away():
    names = Names("a:1")
    membership, told = opened("dns:///nodes.test:7411", names=names)
    await membership.refresh()
    names.addresses = OSError("no such name")
    await membership.refresh()
    assert told == [[Site("a:1")]]


async def test_a_name_server_that_hangs_holds_nobody_up_and_is_not_asked_again():
    names = Names("a:1")
    names.go_on.clear()
    membership, told = opened("dns:///nodes.test:7411", names=names, every=0.05)
    for _ in range(3):
        await asyncio.wait_for(membership.refresh(), 20)
    assert told == [[]]
    assert names.asked == 1, "one thread hangs, not one more with each look-up"
    names.go_on.set()
    while told[-1] != [Site("a:1")]:
        await membership.refresh()


async def test_the_systems_resolver_knows_this_host():
    told: list[list[Site]] = []
    membership = Membership(["dns:///localhost:7411"], lambda sites: told.append(list(sites)), every=30)
    await membership.refresh()
    assert {site.name for site in told[0]} <= {"127.0.0.1:7411", "[::1]:7411"}
    assert told[0]
