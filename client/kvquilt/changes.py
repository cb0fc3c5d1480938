"""What a client changes of what is stored: forgetting and pins."""

from typing import TYPE_CHECKING

from kvquilt.receipts import ForgetReport, PinReport
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

    async def _pin(self, request: pb.PinRequest, deadline: float) -> PinReport:
        async with translated():
            receipt = well_formed(await self._stub.Pin(request, timeout=deadline))
        return PinReport(receipt.objects, receipt.pinned_bytes, receipt.limit_bytes)
