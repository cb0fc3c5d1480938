"""Errors on the wire: a status code, the message, and the reason as `google.rpc.ErrorInfo`."""

import asyncio
import functools
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from kvquilt_codec import errors
from kvquilt_rpc import unreached

log = logging.getLogger(__name__)

DOMAIN = "kvquilt"
_DETAILS_KEY = "grpc-status-details-bin"
_MAX_MESSAGE_BYTES = 1000
"""A message travels in the metadata, twice and escaped; gRPC drops the whole answer where that is beyond 8 KiB."""

_CODES: tuple[tuple[type[errors.KvquiltError], grpc.StatusCode], ...] = (
    (errors.BadRequestError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.UnauthenticatedError, grpc.StatusCode.UNAUTHENTICATED),
    (errors.PermissionDeniedError, grpc.StatusCode.PERMISSION_DENIED),
    (errors.NotFoundError, grpc.StatusCode.NOT_FOUND),
    (errors.IntegrityError, grpc.StatusCode.DATA_LOSS),
    (errors.FingerprintMismatchError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.UnsupportedModelError, grpc.StatusCode.UNIMPLEMENTED),
    (errors.CapacityError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.UnavailableError, grpc.StatusCode.UNAVAILABLE),
    (errors.DeadlineError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (errors.KvquiltError, grpc.StatusCode.INTERNAL),
)
_TYPES = {code: error for error, code in _CODES}
# What gRPC itself answers, for instance to a message over the size limit or a call that the server does not know.
_TYPES[grpc.StatusCode.CANCELLED] = errors.UnavailableError

Result = TypeVar("Result")
Item = TypeVar("Item")
Context = grpc.aio.ServicerContext[Any, Any]


def from_rpc_error(error: grpc.aio.AioRpcError) -> errors.KvquiltError:
    """The error of our tree that a failed call stands for, its reason included."""
    kind = _TYPES.get(error.code(), errors.KvquiltError)
    reason = retry_after = None
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            reason, retry_after = _details(value)
    message = error.details() or error.code().name.lower()
    if reason is None:  # gRPC's own answer, not the peer's
        if kind is errors.UnsupportedModelError:
            return errors.KvquiltError(unreached.UNKNOWN_CALL)
        message, reason = unreached.explained(message)
    return kind(message, reason=reason, retry_after=retry_after)


def code_of(error: errors.KvquiltError) -> grpc.StatusCode:
    """The status code that stands for an error."""
    return next(code for kind, code in _CODES if isinstance(error, kind))


def from_code(code: int, message: str, reason: str) -> errors.KvquiltError:
    """The error of our tree that a peer told of by its code, as a number, within an answer."""
    kind = next((kind for known, kind in _TYPES.items() if known.value[0] == code), errors.KvquiltError)
    return kind(message[:_MAX_MESSAGE_BYTES], reason=reason[:_MAX_MESSAGE_BYTES] or None)


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Raise errors of our tree for failed calls.

    Raises:
        KvquiltError: what the peer or gRPC said.
        CancelledError: the caller's task is being cancelled; nothing else raises it.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None
    except grpc.aio.UsageError as error:
        # A pool closes the connection to a node that is no member any more, also while a call is about to be made.
        raise errors.UnavailableError(f"expected an open connection; it was closed meanwhile: {error}") from None
    except asyncio.CancelledError:
        # gRPC cancels a call by itself where it cannot send on, as when the peer dies in the middle of a stream.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise errors.UnavailableError("expected the peer to take all that is sent; the connection ended") from None


def well_formed(answer: Result | None) -> Result:
    """The answer of a peer; gRPC gives `None` for bytes that are no such message.

    Raises:
        IntegrityError: there is none.
    """
    if answer is None:
        raise errors.IntegrityError("expected a well-formed answer; the peer sent bytes that are none")
    return answer


def _details(data: bytes) -> tuple[str | None, float | None]:
    """Reason and seconds to wait, as far as a peer gave them."""
    reason = retry_after = None
    try:
        for detail in status_pb2.Status.FromString(data).details:
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            if detail.Unpack(info) and info.domain == DOMAIN:
                reason = str(info.reason)
            elif detail.Unpack(retry):
                retry_after = float(retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9)
    except DecodeError:
        log.warning("a peer sent malformed error details")
    return reason, retry_after


async def abort(context: Context, error: Exception) -> None:
    """End a call with the status that an error stands for.

    Raises:
        AbortError: always; gRPC's own way to end a call.
    """
    if isinstance(error, DecodeError):
        error = errors.BadRequestError(f"expected well-formed messages; got {error}")
    if not isinstance(error, errors.KvquiltError):
        # The message of an unforeseen error may hold what the caller must not see: it goes to the log only.
        log.error("unforeseen error in a call", exc_info=error)
        error = errors.KvquiltError("unforeseen error; the server's log has it")
    code = code_of(error)
    details = [_packed(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN))]
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    message = str(error).encode("utf-8", "replace")[:_MAX_MESSAGE_BYTES].decode("utf-8", "ignore")
    status = rpc_status.to_status(status_pb2.Status(code=code.value[0], message=message, details=details))
    await context.abort(status.code, status.details, status.trailing_metadata)


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def unary(
    handler: Callable[[Any, Any, Context], Awaitable[Result]],
) -> Callable[[Any, Any, Context], Awaitable[Result]]:
    """Make a handler that returns one message answer every error with a status."""

    @functools.wraps(handler)
    async def guarded(self: Any, request: Any, context: Context) -> Result:
        try:
            return await handler(self, request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await abort(context, error)
            raise

    return guarded


def streaming(
    handler: Callable[[Any, Any, Context], AsyncGenerator[Item, None]],
) -> Callable[[Any, Any, Context], AsyncIterator[Item]]:
    """Make a handler that yields messages answer every error with a status."""

    @functools.wraps(handler)
    async def guarded(self: Any, request: Any, context: Context) -> AsyncIterator[Item]:
        try:
            # Closed at once when the caller goes away, not when the garbage collector comes by.
            async with aclosing(handler(self, request, context)) as items:
                async for item in items:
                    yield item
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001  the boundary: nothing may leave as a stack trace
            await abort(context, error)

    return guarded
