"""What holds for the objects of every release, whatever its values."""

import importlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from tests.helm.chart import KUBERNETES, NAMESPACE, Object, Rendered, chooses, host
from tests.helm.monitoring import metrics_are_found

CONFIG = "/etc/kvquilt/"
CUSTOM = {
    "cert-manager.io/v1": "cloudcoil.models.cert_manager.v1",
    "monitoring.coreos.com/v1": "cloudcoil.models.prometheus_operator.v1",
}
"""Where the models of custom resources are, made from the operators' own definitions."""


def check(rendered: Rendered, values: Mapping[str, Any]) -> None:
    """All of them; `values` are those that the release has in the end."""
    names = [(found["kind"], found["metadata"]["name"]) for found in rendered.objects]
    assert len(set(names)) == len(names)
    for _, name in names:
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name), name
    objects_are_valid(rendered)
    pods_are_confined(rendered)
    pods_are_watched(rendered)
    volumes_are_there(rendered)
    selectors_find_pods(rendered)
    network_is_closed(rendered, values)
    caps_fit_volumes_and_memory(rendered, values)
    drains_outlast_streams(rendered, values)
    nothing_secret_is_plain(rendered)
    tls_is_everywhere(rendered, values)
    metrics_are_found(rendered, values)


def objects_are_valid(rendered: Rendered) -> None:
    import kubernetes_validate  # fetched by helm/fetch_tools.sh; without it these tests are skipped

    for found in rendered.objects:
        if found["apiVersion"] in CUSTOM:
            custom_object_is_valid(found)
            continue
        for version in KUBERNETES:
            try:
                kubernetes_validate.validate(found, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                where = "/".join(map(str, error.absolute_path))
                pytest.fail(f"{found['kind']} {found['metadata']['name']} at {where}: {error.message[:500]}")


def custom_object_is_valid(found: Object) -> None:
    """By the models of operators' own resources, which take whatever they do not know and leave it out."""
    module = importlib.import_module(CUSTOM[found["apiVersion"]])
    known = getattr(module, found["kind"]).model_validate(found)
    kept = json.loads(known.model_dump_json(by_alias=True, exclude_unset=True))
    assert kept == found, f"unknown fields in {found['kind']} {found['metadata']['name']}"


def containers(rendered: Rendered) -> Iterator[tuple[Object, Object]]:
    """Each container with its pod's specification."""
    for _, pod in rendered.pods():
        assert not pod["spec"].get("initContainers")
        for container in pod["spec"]["containers"]:
            yield pod["spec"], container


def pods_are_confined(rendered: Rendered) -> None:
    accounts = {found["metadata"]["name"]: found for found in rendered.of("ServiceAccount")}
    for spec, container in containers(rendered):
        assert spec["automountServiceAccountToken"] is False
        assert accounts[spec["serviceAccountName"]]["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False  # KVQUILT_NODE_PORT and the like would be refused as settings
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert requests.keys() >= {"cpu", "memory", "ephemeral-storage"} <= limits.keys()
        for what in ("cpu", "memory", "ephemeral-storage"):
            assert quantity(requests[what]) > 0
        assert requests["memory"] == limits["memory"]
        for volume in spec["volumes"]:
            assert "hostPath" not in volume
            if "emptyDir" in volume:
                assert quantity(volume["emptyDir"]["sizeLimit"]) > 0
        for mount in container["volumeMounts"]:
            assert "subPath" not in mount  # such a mount never sees a replaced certificate


def pods_are_watched(rendered: Rendered) -> None:
    budgets = rendered.of("PodDisruptionBudget")
    for found in rendered.of("Deployment", "StatefulSet"):
        template = found["spec"]["template"]
        for container in template["spec"]["containers"]:
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                kind = "grpc" if found["kind"] == "Deployment" else "tcpSocket"
                port = container[probe][kind]["port"]
                assert port == (ports["health"] if kind == "grpc" else "redis")
        if found["kind"] == "Deployment":
            assert container["livenessProbe"]["grpc"]["service"] == "liveness"
            (budget,) = (each for each in budgets if chooses(each["spec"]["selector"], template))
            assert budget["spec"]["maxUnavailable"] == 1
            keys = {each["topologyKey"] for each in template["spec"]["topologySpreadConstraints"]}
            assert keys == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
            assert template["spec"]["affinity"]["podAntiAffinity"]


def volumes_are_there(rendered: Rendered) -> None:
    made = {(found["kind"], found["metadata"]["name"]): found for found in rendered.of("ConfigMap", "Secret")}
    claims = {claim["metadata"]["name"] for found in rendered.of("StatefulSet") for claim in claims_of(found)}
    for spec, container in containers(rendered):
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert volumes.keys() <= mounted
        assert mounted - volumes.keys() <= claims
        for volume in volumes.values():
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in made
        for argument in re.findall(rf"{CONFIG}config/([\w.]+)", " ".join(container.get("args", []))):
            name = volumes["config"]["configMap"]["name"]
            assert argument in made["ConfigMap", name]["data"]


def claims_of(found: Object) -> list[Object]:
    return list(found["spec"].get("volumeClaimTemplates", []))


def selectors_find_pods(rendered: Rendered) -> None:
    pods = [pod for _, pod in rendered.pods()]
    for service in rendered.of("Service"):
        chosen = [pod for pod in pods if chooses({"matchLabels": service["spec"]["selector"]}, pod)]
        assert len(chosen) == 1, service["metadata"]["name"]
        ports = {port["name"] for each in chosen[0]["spec"]["containers"] for port in each["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for found in rendered.of("Deployment", "StatefulSet"):
        assert chooses(found["spec"]["selector"], found["spec"]["template"])
        assert sum(chooses(found["spec"]["selector"], pod) for pod in pods) == 1
    for scaler in rendered.of("HorizontalPodAutoscaler"):
        scaled = rendered.one("Deployment", scaler["spec"]["scaleTargetRef"]["name"])
        assert "replicas" not in scaled["spec"]  # an upgrade would undo what the scaler did
        assert scaler["spec"]["minReplicas"] <= scaler["spec"]["maxReplicas"]


def network_is_closed(rendered: Rendered, values: Mapping[str, Any]) -> None:
    policies = rendered.of("NetworkPolicy")
    assert bool(policies) == values["networkPolicy"]["enabled"]
    for name, pod in rendered.pods() if policies else ():
        of_pod = [policy["spec"] for policy in policies if chooses(policy["spec"]["podSelector"], pod)]
        assert {"policyTypes": ["Ingress", "Egress"]} in [
            {key: value for key, value in spec.items() if key != "podSelector"} for spec in of_pod
        ], name
        for spec in of_pod:
            for rule in spec.get("ingress", []):
                assert rule["from"]
                assert rule["ports"]
            for rule in spec.get("egress", []):
                assert rule.get("ports") or rule in values["networkPolicy"]["extraEgress"]


def caps_fit_volumes_and_memory(rendered: Rendered, values: Mapping[str, Any]) -> None:
    name = "kvquilt-node"
    node = rendered.settings(name)["node"]
    spec = rendered.one("Deployment", name)["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    resources = spec["containers"][0]["resources"]
    disk = node.get("hot_capacity", 0)
    assert bool(disk) == (node.get("hot_store") == "file") == bool(values["node"]["disk"])
    assert disk * 9 // 8 < quantity(volumes["data"]["emptyDir"]["sizeLimit"])
    sizes = [quantity(volume["emptyDir"]["sizeLimit"]) for volume in volumes.values() if "emptyDir" in volume]
    assert sum(sizes) <= quantity(resources["limits"]["ephemeral-storage"])
    assert node["path"] in {mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
    assert node["memory_bytes"] + node["put_bytes"] < quantity(resources["limits"]["memory"])
    assert node["max_object"] <= node["put_bytes"]
    for server in rendered.of("StatefulSet"):
        container = server["spec"]["template"]["spec"]["containers"][0]
        command = container["command"]
        memory = int(command[command.index("--maxmemory") + 1])
        held = node["capacity"] if node["store"] == "redis" else 0
        assert held * 4 // 3 < memory  # a quarter of it for writes under way, and the index
        assert command[command.index("--maxmemory-policy") + 1] == "noeviction"
        assert memory * 5 // 4 < quantity(container["resources"]["limits"]["memory"])
        for claim in claims_of(server):
            assert quantity(claim["spec"]["resources"]["requests"]["storage"]) >= 3 * memory


def drains_outlast_streams(rendered: Rendered, values: Mapping[str, Any]) -> None:
    for found in rendered.of("Deployment"):
        part = found["metadata"]["labels"]["app.kubernetes.io/component"]
        spec = found["spec"]["template"]["spec"]
        drain = rendered.settings(found["metadata"]["name"])[part]["drain_seconds"]
        wait = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert drain >= values[part]["longestStreamSeconds"]
        assert spec["terminationGracePeriodSeconds"] > wait + drain


SECRET = re.compile(r"password|secret|(^|_)token(_|$)|credential|redis_url|_key$", re.IGNORECASE)


def nothing_secret_is_plain(rendered: Rendered) -> None:
    for _, container in containers(rendered):
        for variable in container.get("env", []):
            if SECRET.search(variable["name"]) or variable["name"].startswith("KVQUILT_"):
                assert "secretKeyRef" in variable["valueFrom"], variable["name"]
        said = " ".join([*container.get("command", []), *container.get("args", [])])
        assert not re.search(r"://[^/ ]*@", said)
    passwords = [
        value.decode()
        for found in rendered.of("Secret")
        for value in rendered.secret(found["metadata"]["name"]).values()
    ]
    for found in rendered.objects:
        if found["kind"] != "Secret":
            text = yaml.safe_dump(found)
            assert not any(password in text for password in passwords)
    for found in rendered.of("ConfigMap"):
        for name, value in leaves(yaml.safe_load(found["data"].get("kvquilt.yaml", "{}"))):
            assert not SECRET.search(name) or str(value).startswith(CONFIG), name


def leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, str(key))
    else:
        yield name, tree


def tls_is_everywhere(rendered: Rendered, values: Mapping[str, Any]) -> None:
    parts = [
        (found["metadata"]["name"], found["metadata"]["labels"]["app.kubernetes.io/component"])
        for found in rendered.of("Deployment")
    ]
    for name, part in parts:
        settings = rendered.settings(name)[part]
        encrypted = values["tls"]["mode"] != "none"
        assert ("tls_cert" in settings["security"]) == encrypted
        if encrypted and part == "node":
            assert settings["security"].keys() >= {"tls_client_ca", "identities"}
            assert "allow_anonymous" not in settings["security"]
        if part == "router":
            assert (settings["security"].get("allow_anonymous", False)) == (values["callers"]["mode"] == "anonymous")
            assert ("tls_cert" in settings.get("node_credentials", {})) == encrypted
            assert settings["nodes"] == [f"dns:///{host('kvquilt-nodes')}:7411"]
    certificates = rendered.of("Certificate")
    assert len(certificates) == (3 if values["tls"]["mode"] == "certManager" else 0)
    if certificates:
        issued = {name for each in certificates for name in each["spec"]["dnsNames"]}
        serving = [each for each in rendered.of("Service") if each["spec"]["ports"][0]["name"] == "grpc"]
        assert issued >= {f"{each['metadata']['name']}.{NAMESPACE}.svc" for each in serving}
        mounted = {
            volume["secret"]["secretName"]
            for _, pod in rendered.pods()
            for volume in pod["spec"]["volumes"]
            if "secret" in volume
        }
        assert mounted >= {each["spec"]["secretName"] for each in certificates}
        known = yaml.safe_load(rendered.one("ConfigMap", "kvquilt-node")["data"]["identities.yaml"])
        (client,) = (each for each in certificates if "client auth" in each["spec"]["usages"])
        assert client["spec"]["dnsNames"] == list(known)


_UNITS = {"": 1.0, "m": 1e-3, "Ki": 1024.0, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}


def quantity(text: str) -> float:
    """Of Kubernetes."""
    found = re.fullmatch(r"([0-9]+)([A-Za-z]*)", str(text))
    assert found is not None, text
    return int(found[1]) * _UNITS[found[2]]
