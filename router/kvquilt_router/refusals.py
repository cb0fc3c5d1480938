"""Chunks that a router computed and could not store, and why: bounded, so that a later miss can be explained."""

from collections import OrderedDict

REFUSALS_KEPT = 4096
QUEUE_FULL = "queue_full"


class Refusals:
    """The latest reasons by chunk key, of all namespaces. A chunk that is stored in the end is forgotten."""

    def __init__(self) -> None:
        self._reasons: OrderedDict[bytes, tuple[str, str]] = OrderedDict()

    def refused(self, chunk_key: bytes, namespace: str, reason: str) -> None:
        """A chunk could not be stored, for the reason of an error or `QUEUE_FULL`."""
        self._reasons[chunk_key] = namespace, reason
        self._reasons.move_to_end(chunk_key)
        while len(self._reasons) > REFUSALS_KEPT:
            self._reasons.popitem(last=False)

    def stored(self, chunk_key: bytes) -> None:
        """It could after all."""
        self._reasons.pop(chunk_key, None)

    def reason(self, chunk_key: bytes) -> str:
        """Why it could not be stored; empty: nothing is known of that."""
        return self._reasons.get(chunk_key, ("", ""))[1]

    def forget(self, namespace: str) -> None:
        """Remember nothing of a namespace."""
        for key in [key for key, (whose, _) in self._reasons.items() if whose == namespace]:
            del self._reasons[key]
