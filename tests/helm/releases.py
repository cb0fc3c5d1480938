"""Releases of the trial and of the production, with real stores, ready for their pods to be started."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drills.tiny_model import saved
from kvquilt import Credentials
from kvquilt_cache_node.store.master_keys import create_master_key
from kvquilt_router.engine import LoadedModel
from kvquilt_router.engine.smollm2 import ensure
from tests.helm.chart import render
from tests.helm.drawn import merged
from tests.helm.placed import Placed, Started
from tests.rpc.certificates import Signer
from tests.servers import HOST, S3_BUCKET, S3_KEY_ID, S3_SECRET, VALKEY, Process, certificates, listens, redis_tls, s3

MODEL = {
    "name": "chat",
    "path": "/models/chat",
    "claim": "kvquilt-models",
    "replicas": 2,
    "cpu": {"request": "1", "limit": "1"},
    "memory": "8Gi",
}


@contextmanager
def valkey_of(placed: Placed, address: str, port: int) -> Iterator[None]:
    """The StatefulSet's own command, with the users that the release's Secret gives it."""
    (server,) = placed.rendered.of("StatefulSet")
    (container,) = server["spec"]["template"]["spec"]["containers"]
    folder = placed.folder / "valkey"
    data = folder / "data"
    data.mkdir(parents=True)
    (folder / "users.acl").write_bytes(placed.secret("kvquilt-valkey")["users.acl"])
    here = {
        "valkey-server": str(VALKEY),
        "6379": str(port),
        "* -::*": address,
        "*": address,
        "/data": str(data),
        "/etc/valkey/users.acl": str(folder / "users.acl"),
    }
    command = [here.get(word, word) for word in container["command"]]
    process = Process(command, folder, lambda: listens(port, address))
    process.start()
    try:
        yield
    finally:
        process.kill()


def with_demo_model(router: Started) -> None:
    """Give a router what it finds in its cache after a first start: converting the model takes half a minute."""
    if "XDG_CACHE_HOME" in router.environment:
        cache = Path(router.environment["XDG_CACHE_HOME"]) / "kvquilt"
        cache.mkdir(parents=True)
        (cache / ensure().name).symlink_to(ensure())


@dataclass(frozen=True)
class Production:
    """A release of the production's values on a real S3 service and a Redis with TLS.

    Attributes:
        placed: its objects.
        model: that its routers serve: one, tiny, without a GPU.
        credentials: as whom to call its routers: one tenant, and who may see all.
        identity: variables that a workload identity would give to nodes.
        endpoint: of the S3 service.
    """

    placed: Placed
    model: LoadedModel
    credentials: Credentials
    operator: Credentials
    identity: dict[str, str]
    endpoint: str


@contextmanager
def production(folder: Path, values: Mapping[str, Any] | None = None) -> Iterator[Production]:
    """One, with values of its own on top."""
    pem = certificates(folder)
    options = ("--tls-auth-clients", "no")
    with s3(folder / "s3") as objects, redis_tls(folder / "redis", pem, *options) as redis:
        here = {
            "storage": {"object": {"url": f"s3://{S3_BUCKET}/production", "endpoint": objects.endpoint}},
            "router": {"models": [MODEL]},
        }
        rendered = render(merged(values or {}, here), "production")
        signer = Signer.new(folder / "tokens")
        claim = folder / "claim"
        model = saved(claim / "chat")
        placed = Placed(
            rendered,
            folder / "pods",
            claims={"kvquilt-models": claim},
            given={
                "kvquilt-redis": {"url": f"rediss://{HOST}:{redis.port}/0".encode(), "ca.crt": pem.ca.read_bytes()},
                "kvquilt-tokens": {"tokens.key.pub": signer.public.read_bytes()},
                "kvquilt-encryption": {"store.key": create_master_key().encode()},
            },
        )
        tokens = signer.token("app", "team-a"), signer.token("operator", "*")
        app, operator = (Credentials(tls_ca=placed.authority.pem, token=token) for token in tokens)
        identity = {"AWS_ACCESS_KEY_ID": S3_KEY_ID, "AWS_SECRET_ACCESS_KEY": S3_SECRET}
        yield Production(placed, model, app, operator, identity, objects.endpoint)
