"""A container's bytes verified while they arrive, for whoever passes them on without decoding them."""

import itertools
from collections.abc import Callable

import xxhash

from kvquilt_codec.container.decoder import check_checksum
from kvquilt_codec.container.head import PREFIX, ContainerHead, head_bytes, parse_head
from kvquilt_codec.errors import IntegrityError


class ArrivingContainer:
    """Takes a whole container piece by piece; gives each byte back once the checksum that covers it is found right.

    Args:
        parse: reads a head as `parse_head` does.
    """

    def __init__(self, parse: Callable[[memoryview], ContainerHead] = parse_head) -> None:
        self._parse = parse
        self._head: ContainerHead | None = None
        self._waiting: list[memoryview] = []
        self._next = 0
        self._got = 0
        """Bytes that came of the next section."""
        self._digest = xxhash.xxh3_128()

    @property
    def head(self) -> ContainerHead | None:
        """The head, once its bytes have come."""
        return self._head

    def feed(self, data: bytes | bytearray | memoryview) -> list[memoryview]:
        """Take the next bytes; return those that are verified now, in order, as views of what was fed.

        Raises:
            IntegrityError: damaged bytes, or more of them than the container has.
        """
        view = memoryview(data).cast("B")
        good = 0
        if self._head is None:
            whole = self._waiting_with(view)
            self._waiting = [whole]
            if len(whole) < PREFIX.size or len(whole) < (good := head_bytes(whole)):
                return []
            self._head = self._parse(whole)
            self._waiting, view = [], whole
        good = max(good, self._verified(self._head, view, good))
        if not good:
            self._waiting.append(view)
            return []
        done = [*self._waiting, view[:good]]
        self._waiting = [view[good:]]
        return done

    def finish(self) -> None:
        """Check that everything came.

        Raises:
            IntegrityError: bytes are missing.
        """
        if self._head is None or self._next < len(self._head.sections):
            raise IntegrityError(f"expected the whole container; it ends in section {self._next}: truncated")

    def _waiting_with(self, view: memoryview) -> memoryview:
        return memoryview(b"".join([*self._waiting, view])) if self._waiting else view

    def _verified(self, head: ContainerHead, view: memoryview, at: int) -> int:
        """Where the last section ends in `view` that is complete with it; 0 if none does. Sections go on at `at`."""
        good = 0
        for section in itertools.islice(head.sections, self._next, None):
            piece = view[at : at + section.length - self._got]
            at += len(piece)
            if len(piece) == section.length:
                check_checksum(section, xxhash.xxh3_128_digest(piece))
            else:
                self._digest.update(piece)
                self._got += len(piece)
                if self._got < section.length:
                    return good
                check_checksum(section, self._digest.digest())
                self._digest.reset()
                self._got = 0
            self._next += 1
            good = at
        if at < len(view):
            raise IntegrityError(f"expected no bytes after the last section; got {len(view) - at} more")
        return good
