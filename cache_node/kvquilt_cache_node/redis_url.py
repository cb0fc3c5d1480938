"""Where a Redis is, as one URL says it: a server, a Cluster, or a service that Sentinels know."""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import unquote

from kvquilt_codec.errors import BadRequestError

FORMS = (
    "redis://[USER:PASSWORD@]HOST:PORT[/DB]",
    "redis+cluster://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...]",
    "redis+sentinel://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...]/SERVICE[/DB]",
    "unix:///PATH/OF/SOCKET",
)
"""What is understood; `rediss` in place of `redis` speaks TLS."""

_URL = re.compile(r"(?P<scheme>[a-z+]+)://(?:(?P<user>[^/]*)@)?(?P<hosts>[^/@]*)(?P<path>/.*)?", re.DOTALL)
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::(?P<port>\d{1,5}))?")
_PORTS = {"cluster": 6379, "standalone": 6379, "sentinel": 26379}


class RedisMode(StrEnum):
    """How the servers belong together."""

    STANDALONE = "standalone"
    CLUSTER = "cluster"
    SENTINEL = "sentinel"


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A parsed URL.

    Attributes:
        hosts: (host, port) pairs; of a standalone server just one, of a socket none.
        service: what Sentinels call the primary; else empty.
        socket: path of a Unix socket; else empty.
    """

    mode: RedisMode
    tls: bool
    hosts: tuple[tuple[str, int], ...]
    service: str = ""
    db: int = 0
    socket: str = ""
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def where(self) -> str:
        """The place for messages, without credentials."""
        place = self.socket or ",".join(f"{host}:{port}" for host, port in self.hosts)
        return f"{place} ({self.mode.value})" if self.mode is not RedisMode.STANDALONE else place

    @staticmethod
    def parse(url: str) -> "RedisUrl":
        """Parse one of `FORMS`.

        Raises:
            BadRequestError: none of them. The message does not quote the URL, which may hold a password.
        """
        found = _URL.fullmatch(url)
        if found is None:
            raise _refused("no such URL")
        scheme, path = found["scheme"], found["path"] or ""
        username, password = _credentials(found["user"])
        if scheme == "unix":
            if found["hosts"] or len(path) < 2:
                raise _refused("a socket without an absolute path")
            return RedisUrl(RedisMode.STANDALONE, False, (), "", 0, path, username, password)
        protocol, _, kind = scheme.partition("+")
        mode = kind or "standalone"
        if protocol not in ("redis", "rediss") or mode not in _PORTS or scheme.endswith(("+", "+standalone")):
            raise _refused(f"the scheme {scheme[:20]!r}")
        hosts = tuple(_host(text, _PORTS[mode]) for text in found["hosts"].split(","))
        if mode == "standalone" and len(hosts) != 1:
            raise _refused(f"{len(hosts)} hosts with the scheme {scheme!r}")
        parts = [part for part in path.split("/") if part]
        service = parts.pop(0) if mode == "sentinel" and parts else ""
        if mode == "sentinel" and not service:
            raise _refused("Sentinels without the name of a service")
        if len(parts) > (mode != "cluster") or not all(re.fullmatch(r"\d{1,4}", part) for part in parts):
            raise _refused("a path that is no database")
        db = int(parts[0]) if parts else 0
        return RedisUrl(RedisMode(mode), protocol == "rediss", hosts, service, db, "", username, password)


def _credentials(text: str | None) -> tuple[str | None, str | None]:
    if not text:
        return None, None
    username, colon, password = text.partition(":")
    return unquote(username) or None, unquote(password) if colon else None


def _host(text: str, default_port: int) -> tuple[str, int]:
    found = _HOST.fullmatch(text)
    port = int(found["port"] or default_port) if found else 0
    if found is None or not 0 < port < 65536:
        raise _refused("a host that is no HOST:PORT")
    return found["name"].strip("[]"), port


def _refused(got: str) -> BadRequestError:
    return BadRequestError(f"expected a Redis URL like {', '.join(FORMS)} (rediss for TLS); got {got}")
