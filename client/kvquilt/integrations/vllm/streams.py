"""Copies between host and device beside the engine's own work: a stream of its own on a GPU, nothing on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class DeviceStream:
    """The device's side stream.

    Args:
        device: where the paged cache is. On a CPU every call is done when it returns.
    """

    def __init__(self, device: torch.device) -> None:
        self.asynchronous = device.type != "cpu"
        self._stream = torch.cuda.Stream(device) if self.asynchronous else None  # type: ignore[no-untyped-call]

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Queue onto the side stream, in this thread."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield

    def finish(self) -> None:
        """Wait until all that is on the side stream is done."""
        if self._stream is not None:
            self._stream.synchronize()

    def mark(self) -> "torch.cuda.Event | None":
        """A point in what the engine has queued so far."""
        return torch.cuda.current_stream().record_event() if self.asynchronous else None

    def to_host(self, tensors: list[torch.Tensor], after: "torch.cuda.Event | None") -> list[torch.Tensor]:
        """The tensors in host memory, copied once `after` is reached."""
        if self._stream is None or after is None:
            return tensors
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(after)
            copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        self._stream.synchronize()
        return copies
