"""What every server exports."""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import kvquilt_kernels
from kvquilt_codec.container.head import VERSION as FORMAT
from kvquilt_codec.errors import KvquiltError
from kvquilt_rpc.callers import ANY
from kvquilt_rpc.certificates import first_expiry
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.metrics import names
from kvquilt_rpc.metrics.types import Lane
from kvquilt_rpc.metrics.values import Named, Values
from kvquilt_rpc.security import Credentials
from kvquilt_rpc.server import RpcServer
from kvquilt_rpc.token_ends import TokenEnd, stated_end, token_of
from kvquilt_rpc.version import VERSION
from kvquilt_rpc.watched import Watched

log = logging.getLogger(__name__)


class ServerMetrics:
    """Exports what there is of a server, whatever its service does.

    Args:
        component: "node" or "router".
        server: see there.
        counters: of the server, `CALL_COUNTERS` among them.
        certificates: further files of certificates than the server's own, by what they are for.
        named: which namespaces have series of their own.
        lanes: what its calls share beyond the server's own.
    """

    def __init__(
        self,
        component: str,
        server: RpcServer,
        counters: Counters,
        certificates: Mapping[str, Path | None],
        named: Named,
        lanes: Sequence[Lane] = (),
    ) -> None:
        self._lanes = lanes
        self._named = named
        self._component = component
        self._server = server
        self._counters = counters
        security = server.security
        files = {"server": security.tls_cert, "client_ca": security.tls_client_ca, **certificates}
        self._certificates = {role: _Expiry(path) for role, path in files.items() if path is not None}

    def collect(self, values: Values) -> None:
        """Export it."""
        values.set(names.BUILD, 1, self._component, VERSION, str(FORMAT), kvquilt_kernels.default().name)
        values.set(names.SERVING, float(self._server.serving))
        values.set(names.CALLS_LIMIT, self._server.lanes.most_calls)
        self._server.meter.collect(values)
        for lane in (*self._server.lanes.each, *self._lanes):
            values.set(names.SLOTS, lane.running, lane.name)
            values.set(names.SLOTS_LIMIT, lane.at_once, lane.name)
            values.set(names.SLOTS_WAITING, lane.waiting, lane.name)
        counts = self._counters.snapshot()
        values.each(names.CALLS_REFUSED, {reason: counts[f"calls_{reason}"] for reason in names.CALL_REASONS})
        values.set(names.TOKEN_KEYS, self._server.token_keys)
        for role, expiry in self._certificates.items():
            if (at := expiry.at) is not None:
                values.set(names.CERTIFICATE_EXPIRY, at, role)
        now = time.time()
        most_left_first = sorted(self._server.token_ends.items(), key=lambda item: -item[1].share_left(now))
        for namespace, end in most_left_first:  # of those that share a label, the last one stays
            _export_end(values, end, "callers", ANY if namespace == ANY else self._named.of(namespace))


def export_token(values: Values, credentials: Credentials, role: str) -> None:
    """Export when the token expires by which this server calls others, if it has one that says so."""
    try:
        end = stated_end(token_of(credentials))
    except KvquiltError as error:
        log.debug("a token is not looked at: %s", error)
        return
    if end is not None:
        _export_end(values, end, role, "")


def _export_end(values: Values, end: TokenEnd, role: str, tenant: str) -> None:
    values.set(names.TOKEN_EXPIRY, end.expires, role, tenant)
    values.set(names.TOKEN_LIFETIME, end.lifetime, role, tenant)


class _Expiry:
    """When the first certificate of a file expires, which is read again when it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._watched: Watched[float] | None = None

    @property
    def at(self) -> float | None:
        """Seconds since the epoch; `None`: the file cannot be read, or holds none."""
        try:
            if self._watched is None:
                self._watched = Watched([self._path], lambda contents: first_expiry(contents[0], self._path))
            return self._watched.get()
        except KvquiltError as error:
            log.debug("a certificate is not looked at: %s", error)
            return None
