"""What keeps an engine from gaining what it could, told before it is started."""

import ipaddress
from collections.abc import Iterator

from kvquilt.calibrating import calibrate_command
from kvquilt.connecting.types import Asked


def warnings(asked: Asked, own_type: str = "") -> Iterator[str]:
    """Each with what to do.

    Args:
        asked: see there.
        own_type: data type that the model's weights are stored in; empty: not known.
    """
    model = asked.model
    ours = model.layout.data_type.value
    if own_type and own_type != ours:
        yield (
            f"the router computes in {ours}, the model's weights are {own_type}, which engines choose by themselves: "
            f"start the engine with {ours} as below, or the router with --set router.dtype={own_type}"
        )
    if not asked.folder:
        yield "the engine's model was not compared with the router's: name its folder with --model"
    elif not asked.verified:
        yield "the weights were not compared, only the configuration"
    if model.gate.missing_reason:
        yield (
            f"there is no gate ({model.gate.missing_reason}): only prefixes in their exact context are loaded, "
            "documents in a new order are computed. To blend them: "
            f"`{calibrate_command(model.layout.data_type, asked.folder)}`, then start the router with "
            "--set router.profile=FILE"
        )
    if model.profile is not None and model.profile.miss_reason:
        yield f"the codec profile is not at hand ({model.profile.miss_reason}): documents are computed"
    if not any(node.reachable for node in asked.status.nodes):
        yield "the router reaches no cache node: nothing is stored or found (`kvquilt status`)"
    if asked.status.ungated:
        yield "the router is ungated: it blends whatever comes of it; for evaluation only"
    yield from _cleartext(asked)


def _cleartext(asked: Asked) -> Iterator[str]:
    credentials = asked.credentials
    if credentials.tls or credentials.tls_ca or _loopback(asked.router):
        return
    yield (
        f"{asked.router} is called without TLS: prompts and KV are readable on the way. docs/security.md; then "
        "--set client.credentials.tls_ca=FILE"
    )


def _loopback(target: str) -> bool:
    if target.startswith("unix:"):
        return True
    host = target.removeprefix("dns:///").rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
