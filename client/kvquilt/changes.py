"""What a client changes of what is stored: forgetting, pins, and points of the gate that were withdrawn."""

from typing import TYPE_CHECKING

from kvquilt import wire
from kvquilt.receipts import ForgetReport, LiftReport, PinReport
from kvquilt_codec.lifetime import check_ttl
from kvquilt_proto.v1 import router_pb2 as pb
from kvquilt_rpc.status import translated, well_formed

if TYPE_CHECKING:
    from kvquilt_proto.v1.router_pb2_grpc import RouterServiceAsyncStub


class Changes:
    """This part of `AsyncClient`."""

    _stub: "RouterServiceAsyncStub"

    async def forget(self, *document_ids: str, everything: bool = False, deadline: float = 60.0) -> ForgetReport:
        """Delete all that is stored for documents; or, without any, everything that the caller's namespace has."""
        request = pb.ForgetRequest(document_ids=document_ids, everything=everything)
        async with translated():
            receipt = well_formed(await self._stub.Forget(request, timeout=deadline))
        kept, pending = receipt.objects_kept_shared, receipt.objects_pending
        return ForgetReport(receipt.objects_deleted, receipt.bytes_deleted, kept, pending)

    async def pin(
        self, *document_ids: str, seconds: float | None = None, expiring: bool = False, deadline: float = 60.0
    ) -> PinReport:
        """Keep what is stored for documents now from eviction.

        Args:
            document_ids: at least one.
            seconds: after which the pin ends; `None`: never. A new pin takes the place of an earlier one.
            expiring: their times to live go on; else they end with the pin at the earliest.
            deadline: seconds.

        Raises:
            CapacityError: more bytes would be pinned than a node allows.
        """
        if seconds is not None:
            check_ttl(seconds)
        request = pb.PinRequest(document_ids=document_ids, seconds=seconds or 0.0, expiring=expiring)
        return await self._pin(request, deadline)

    async def unpin(self, *document_ids: str, deadline: float = 60.0) -> PinReport:
        """Pin what is stored for documents no more."""
        return await self._pin(pb.PinRequest(document_ids=document_ids, unpin=True), deadline)

    async def lift(
        self,
        policy: str,
        recompute_ratio: float,
        context: str,
        level: str,
        *,
        model: str = "",
        deadline: float = 30.0,
    ) -> LiftReport:
        """Let a point of the gate be used again that audits withdrew, by all routers; its audits begin anew.

        Args:
            policy, recompute_ratio, context, level: of the point, as `ModelInfo.gate` has them.
            model: which one, where the router serves several.
            deadline: seconds.

        Raises:
            NotFoundError: the gate has no such point.
            BadRequestError: it is not withdrawn.
            PermissionDeniedError: the caller is no operator.
        """
        request = pb.LiftWithdrawalRequest(
            model=model, policy=policy, recompute_ratio=recompute_ratio, context=context, level=level
        )
        async with translated():
            done = well_formed(await self._stub.LiftWithdrawal(request, timeout=deadline))
        return LiftReport(wire.gate_point(done.point), done.nodes_stored, done.nodes, done.unstored_reason)

    async def _pin(self, request: pb.PinRequest, deadline: float) -> PinReport:
        async with translated():
            receipt = well_formed(await self._stub.Pin(request, timeout=deadline))
        return PinReport(receipt.objects, receipt.pinned_bytes, receipt.limit_bytes)
