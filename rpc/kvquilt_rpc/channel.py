"""Client channels: message limits, keep-alive, and a bounded retry with jitter of calls that found no server."""

import json

import grpc

from kvquilt_rpc.addresses import check_address
from kvquilt_rpc.credentials import credentialed_channel
from kvquilt_rpc.security import Credentials

MAX_MESSAGE_BYTES = 8 << 20
KEEPALIVE_MS = 30_000

_SERVICE_CONFIG = {
    # Each client takes one of a name's addresses at random, and another when that ends: gRPC's default is the first,
    # which would leave the other routers behind a headless service idle. Not all by turns (`round_robin`): that lets
    # calls fail for a second and more after a server has been started again.
    "loadBalancingConfig": [{"pick_first": {"shuffleAddressList": True}}],
    # Where most calls fail, few are tried again: retries do not multiply the load of what is coming back (gRFC A6).
    # Half of the tokens is what one connection may have under way when its server ends.
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
    "methodConfig": [
        {
            # Every call of ours is idempotent, so a call that reached no server may be tried again. `kvquilt_rpc.nodes`
            # does that for calls of cache nodes: it knows the other nodes, and has a budget. Here too would multiply.
            "name": [{"service": "kvquilt.v1.RouterService"}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.05s",
                "maxBackoff": "0.5s",
                "backoffMultiplier": 2,
                # Calls that have arrived at a server when it begins to stop, and that no handler has seen, gRPC ends
                # as CANCELLED (grpc/grpc issue 41785). A caller's own cancelling is not tried again.
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ],
}

MESSAGE_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
]


def open_channel(target: str, credentials: Credentials | None = None, server_name: str = "") -> grpc.aio.Channel:
    """A channel to a server. Connects on first use.

    Args:
        target: `host:port`, `dns:///NAME:PORT` or `unix:PATH`.
        credentials: as whom, and with TLS or not.
        server_name: that the server's certificate must have, if not the target's; for addresses that a name stood for.

    Raises:
        BadRequestError: the target is something else.
        NotFoundError, BadRequestError: see `credentialed_channel`.
    """
    check_address(target, "a server")
    options: list[tuple[str, str | int]] = [
        *MESSAGE_OPTIONS,
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        ("grpc.enable_retries", 1),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", 10_000),
        # A server that restarts is found again within a second, not after gRPC's default of up to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # Nor are names looked up once in half a minute at most: servers that all have been replaced meanwhile would be
        # missed for so long.
        ("grpc.dns_min_time_between_resolutions_ms", 1_000),
        # Channels to one address share a connection by default, and with it the state of a server that is gone.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    return credentialed_channel(target, credentials or Credentials(), options)
