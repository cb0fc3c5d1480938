"""A name server on the loopback interface, which gRPC asks for targets `dns://SERVER/NAME:PORT`."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.servers import HOST

_HEADER = struct.Struct("!6H")
_ANSWER, _NO_NAME = 0x8580, 0x8583
_A, _IN = 1, 1


@dataclass
class Names:
    """What names stand for.

    Attributes:
        port: that it answers on, over UDP.
        addresses: IPv4 addresses by name; may be changed at any time. A name that is not there does not exist.
        asked: questions so far.
    """

    port: int
    addresses: dict[str, list[str]] = field(default_factory=dict)
    asked: int = 0

    def target(self, name: str, port: int) -> str:
        """Of gRPC."""
        return f"dns://{HOST}:{self.port}/{name}:{port}"

    def answer(self, question: bytes) -> bytes:
        """A message for a message, RFC 1035: one question, no compression in it."""
        labels, at = [], _HEADER.size
        while length := question[at]:
            labels.append(question[at + 1 : at + 1 + length].decode())
            at += 1 + length
        kind, _ = struct.unpack_from("!2H", question, at + 1)
        known = self.addresses.get(".".join(labels))
        found = known if known is not None and kind == _A else []
        code = _NO_NAME if known is None else _ANSWER
        head = _HEADER.pack(struct.unpack_from("!H", question)[0], code, 1, len(found), 0, 0)
        # Each record's name is where the question has it; it may be kept for 0 seconds.
        record = struct.pack("!3HIH", 0xC000 | _HEADER.size, _A, _IN, 0, 4)
        records = [record + socket.inet_aton(each) for each in found]
        return b"".join([head, question[_HEADER.size : at + 5], *records])


@contextmanager
def name_server() -> Iterator[Names]:
    """Answers until the context ends."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind((HOST, 0))
        names = Names(bound.getsockname()[1])

        def serve() -> None:
            while (message := bound.recvfrom(4096))[0]:
                names.asked += 1
                bound.sendto(names.answer(message[0]), message[1])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield names
        finally:
            bound.sendto(b"", (HOST, names.port))
            thread.join(30)
