"""Calls that every node must answer, because it is not known which of them have what they are about."""

import time
from collections.abc import Sequence
from typing import TypeVar

from kvquilt_codec.errors import CapacityError, UnavailableError
from kvquilt_codec.receipts import ForgetReceipt, PinReceipt
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.nodes import merging
from kvquilt_rpc.nodes.attempts import REFUSED, Attempts, Call, answers
from kvquilt_rpc.nodes.routing import Routing
from kvquilt_rpc.nodes.types import PoolOptions

Result = TypeVar("Result")


class Everywhere:
    """This part of a pool."""

    _options: PoolOptions
    _routing: Routing
    _attempts: Attempts

    async def forget(
        self, *, keys: Sequence[bytes] = (), documents: Sequence[str] = (), deadline: float, damaged: bool = False
    ) -> ForgetReceipt:
        """See `CacheNodes`."""

        async def work(client: NodeClient, _: Sequence[bytes], seconds: float) -> ForgetReceipt:
            return await client.forget(keys=keys, documents=documents, deadline=seconds, damaged=damaged)

        found = await self._everywhere(Call("forget", work), deadline)
        return merging.receipts(found, shared=self._options.shared_store)

    async def forget_namespace(self, namespace: str, *, deadline: float) -> ForgetReceipt:
        """See `CacheNodes`."""

        async def work(client: NodeClient, _: Sequence[bytes], seconds: float) -> ForgetReceipt:
            return await client.forget_namespace(namespace, deadline=seconds)

        found = await self._everywhere(Call("forget_namespace", work), deadline)
        return merging.receipts(found, shared=self._options.shared_store)

    async def pin(
        self, documents: Sequence[str], *, seconds: float = 0.0, expiring: bool = False, deadline: float
    ) -> PinReceipt:
        """See `CacheNodes`."""

        async def work(client: NodeClient, _: Sequence[bytes], left: float) -> PinReceipt:
            return await client.pins.pin(documents=documents, seconds=seconds, expiring=expiring, deadline=left)

        found = await self._everywhere(Call("pin", work), deadline)
        return merging.pins(found, shared=self._options.shared_store)

    async def unpin(self, documents: Sequence[str], *, deadline: float) -> PinReceipt:
        """See `CacheNodes`."""

        async def work(client: NodeClient, _: Sequence[bytes], left: float) -> PinReceipt:
            return await client.pins.unpin(documents=documents, deadline=left)

        found = await self._everywhere(Call("unpin", work), deadline)
        return merging.pins(found, shared=self._options.shared_store)

    async def _everywhere(self, call: Call[Result], deadline: float) -> list[Result]:
        """What all members answered; of those that share their stores one is asked first: what several do counts once.

        Raises:
            UnavailableError: not all of them did.
        """
        end = time.monotonic() + deadline
        self._routing.usable()
        members = list(self._routing.members.values())
        first = members[:1] if self._options.shared_store else []
        found = await self._attempts.each(first, call, deadline)
        found += await self._attempts.each(members[len(first) :], call, max(0.0, end - time.monotonic()))
        refused = (answer.error for answer in found if isinstance(answer.error, (*REFUSED, CapacityError)))
        if (error := next(refused, None)) is not None:
            raise error
        failed = [f"{answer.member.site.name} ({answer.error})" for answer in found if answer.result is None]
        if failed:
            what = call.name.split("_")[0]
            raise UnavailableError(
                f"expected all {len(found)} nodes to {what}; {', '.join(failed)} did not: "
                f"{what} again, or take nodes that are gone for good out of router.nodes"
            )
        return answers(found)
