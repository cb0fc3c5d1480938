"""Rendered pods as processes of this machine: their volumes as folders, their services as loopback addresses.

What a pod's container would be started with is taken as it is rendered: arguments, environment, files. Changed is only
what a machine without a cluster cannot give: mount paths and host names are replaced by what stands for them here, and
the addresses to listen on by free ones of the loopback interface.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kvquilt.cli.settings import load
from kvquilt_router.checking import check_settings
from kvquilt_rpc.authentication import Authenticator
from tests.helm.chart import Object, Rendered, host
from tests.rpc.certificates import Authority
from tests.servers import HOST, free_ports

MASTER = "m" * 32
REDIS_URL = "redis://127.0.0.1:1"
"""Where nothing is; tests of processes give another one."""


@dataclass(frozen=True)
class Started:
    """How a container is started here.

    Attributes:
        arguments: of `kvquilt`.
        environment: variables.
        config: its settings file.
        port: that it serves on.
        health: port of its health service.
        mounts: what stands for its volumes, by mount path.
    """

    arguments: list[str]
    environment: dict[str, str]
    config: Path
    port: int
    health: int
    mounts: Mapping[str, Path] = field(default_factory=dict)

    def check(self) -> None:
        """What `kvquilt config check` does, in this process."""
        settings = load(self.config, (), self.environment).settings
        check_settings(settings.router)
        Authenticator(settings.node.security, settings.node.host)


@dataclass
class Placed:
    """A release in a folder.

    Attributes:
        rendered: the release.
        folder: everything is below it.
        addresses: what stands for services here, by the name and port that the objects have for them.
        given: secrets that the release refers to and does not make itself, by name; what is not there is made up.
    """

    rendered: Rendered
    folder: Path
    addresses: dict[str, str] = field(default_factory=dict)
    given: dict[str, dict[str, bytes]] = field(default_factory=dict)
    claims: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.authority = Authority.new(self.folder / "authority")

    def process(self, name: str, replica: int = 0, address: str | None = None) -> Started:
        """Of a Deployment's or Pod's only container; with an address of its own it has the ports that are rendered."""
        pod = dict(self.rendered.pods())[name]
        (container,) = pod["spec"]["containers"]
        folder = self.folder / f"{name}-{replica}"
        mounts = self._mounts(pod, container, folder)
        port, health = free_ports(2)
        listening = {"host": HOST, "port": port, "health_port": health} if address is None else {"host": address}
        for path in mounts.values():
            for file in path.glob("*.yaml"):
                file.write_text(self._moved(file.read_text(), mounts))
        config = mounts.get("/etc/kvquilt/config", folder) / "kvquilt.yaml"
        if config.exists():
            tree = yaml.safe_load(config.read_text())
            for part in (tree[name] for name in ("node", "router") if name in tree):
                part |= listening
                port, health = part["port"], part["health_port"]
                if "nodes" in part:  # an address for each node, where the name stands for all
                    part["nodes"] = [each for entry in part["nodes"] for each in entry.split(",")]
            config.write_text(yaml.safe_dump(tree))
        arguments = [self._moved(argument, mounts) for argument in container["args"]]
        environment = {
            variable["name"]: self._moved(self._value(variable), mounts) for variable in container.get("env", [])
        }
        return Started(arguments, environment, config, port, health, mounts)

    def secret(self, name: str) -> dict[str, bytes]:
        """A secret of the release, or one that an operator makes."""
        if any(found["metadata"]["name"] == name for found in self.rendered.of("Secret")):
            return self.rendered.secret(name)
        return self.given.get(name, {})

    def _mounts(self, pod: Object, container: Object, folder: Path) -> dict[str, Path]:
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        mounts: dict[str, Path] = {}
        for mount in container["volumeMounts"]:
            volume = volumes[mount["name"]]
            path = folder / mount["name"]
            if "persistentVolumeClaim" in volume:
                path = self.claims.get(volume["persistentVolumeClaim"]["claimName"], path)
            path.mkdir(parents=True, exist_ok=True)
            mounts[mount["mountPath"]] = path
            if "configMap" in volume:
                for key, text in self.rendered.one("ConfigMap", volume["configMap"]["name"])["data"].items():
                    (path / key).write_text(text)
            if "secret" in volume:
                self._fill(path, volume["secret"])
        return mounts

    def _fill(self, path: Path, volume: Mapping[str, Any]) -> None:
        held = self.secret(volume["secretName"])
        keys = [item["key"] for item in volume.get("items", [])] or ["tls.crt", "tls.key", "ca.crt", *held]
        for key in keys:
            (path / key).write_bytes(held[key] if key in held else self._made(key, volume["secretName"]))

    def _made(self, key: str, secret: str) -> bytes:
        """What somebody would have put there: a certificate, or a key that verifies tokens."""
        if key in ("tls.crt", "tls.key"):
            if not (self.authority.folder / f"{secret}.pem").exists():
                self.authority.issue(secret, HOST, *self._dns_names(secret))
            kind = "pem" if key == "tls.crt" else "key"
            return (self.authority.folder / f"{secret}.{kind}").read_bytes()
        if key == "ca.crt":
            return self.authority.pem.read_bytes()
        return Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def _dns_names(self, secret: str) -> list[str]:
        """What the release asks of cert-manager; where it asks nothing, all names that there are."""
        for found in self.rendered.of("Certificate"):
            if found["spec"]["secretName"] == secret:
                return [str(name) for name in found["spec"]["dnsNames"]]
        return [host(found["metadata"]["name"]) for found in self.rendered.of("Service")] + [host("kvquilt-router")]

    def _value(self, variable: Mapping[str, Any]) -> str:
        if "value" in variable:
            return str(variable["value"])
        if "fieldRef" in variable["valueFrom"]:
            return "a-pod"
        wanted = variable["valueFrom"]["secretKeyRef"]
        held = self.secret(wanted["name"])
        if wanted["key"] in held:
            return held[wanted["key"]].decode()
        return REDIS_URL if variable["name"].endswith("REDIS_URL") else MASTER

    def _moved(self, text: str, mounts: Mapping[str, Path]) -> str:
        for name, address in self.addresses.items():
            text = text.replace(name, address)
        # All in one pass: what stands for a mount may itself begin as another mount does.
        either = "|".join(map(re.escape, sorted(mounts, key=len, reverse=True)))
        return re.sub(rf"(?<![\w./-])({either})(?![\w-])", lambda found: str(mounts[found[1]]), text)
