"""The flags and lines of each engine. What the settings mean is said where the engine's side reads them."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from kvquilt.connecting.types import Asked
from kvquilt.errors import BadRequestError
from kvquilt.integrations.lmcache.settings import AdapterSettings, ModelSettings
from kvquilt.integrations.vllm.options import ConnectorSettings
from kvquilt_rpc.nodes.membership import parse_address
from kvquilt_rpc.security import Credentials

PREFIX_CACHING = (
    "vLLM's own prefix cache stays on, and finds first what it has. Where tenants share the engine, give each request "
    "its tenant's cache_salt, and map it: --namespace SALT=NAME; a request with another salt neither loads nor saves"
)


def vllm(asked: Asked) -> tuple[dict[str, Any], tuple[str, ...]]:
    """`--kv-transfer-config`, and the line that starts the server."""
    settings = ConnectorSettings(
        target=asked.router,
        credentials=_by_files(asked.credentials),
        model_fingerprint=asked.model.fingerprint if asked.verified else "",
        namespaces=asked.namespaces,
    )
    config = {
        "kv_connector": "KvquiltConnector",
        "kv_connector_module_path": "kvquilt.integrations.vllm",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": _printed(settings, "target"),
    }
    folder = asked.folder or "MODEL"
    words = ["vllm", "serve", folder, "--dtype", asked.model.layout.data_type.value]
    words.append("--enable-prompt-tokens-details")  # answers then say how many tokens were cached
    return config, (f"{shlex.join(words)} --kv-transfer-config {shlex.quote(json.dumps(config))}",)


def lmcache(
    asked: Asked, nodes: Sequence[str], node_credentials: Credentials, master_secret_file: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """`--l2-adapter`, and the line that starts LMCache's server. The adapter calls cache nodes, not the router.

    Raises:
        BadRequestError: namespaces without the file of the master secret, no node, or none that is an address.
    """
    if not nodes:
        raise BadRequestError("expected cache nodes; the router has none: name them with --node")
    if asked.namespaces and not master_secret_file:
        raise BadRequestError("expected --master-secret-file with --namespace: keys of namespaces are derived from it")
    first = asked.model.layout.layers[0]
    # LMCache's keys name a model by what the engine calls it, so the revision tells its weights from others.
    model = ModelSettings(revision=asked.model.fingerprint[:16], head_dim=first.key_dim)
    for node in nodes:
        parse_address(node)
    settings = AdapterSettings(
        nodes=tuple(nodes),
        credentials=_by_files(node_credentials),
        master_secret_file=Path(master_secret_file) if asked.namespaces else None,
        namespaces=dict(asked.namespaces),
        models={asked.folder: model} if asked.folder else {},
    )
    config = {
        "type": "plugin",
        "module_path": "kvquilt.integrations.lmcache",
        "class_name": "KvquiltL2Adapter",
        "adapter_params": _printed(settings, "nodes"),
    }
    return config, (f"lmcache server --l2-adapter {shlex.quote(json.dumps(config))}",)


def transformers(asked: Asked) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Lines of Python."""
    given = _by_files(asked.credentials).model_dump(mode="json", exclude_defaults=True)
    words = ", ".join(f"{name}={value!r}" for name, value in given.items())
    credentials = f", credentials=Credentials({words})" if given else ""
    imported = ["from kvquilt import Credentials"] if given else []
    return {}, (
        *imported,
        "from kvquilt.integrations.transformers import KvquiltCache",
        f"cache = KvquiltCache(model, tokenizer, {asked.router!r}{credentials})"
        f"  # model in {asked.model.layout.data_type.value}",
        "filled = cache.fill([document, another, question])",
        "output = model.generate(**filled, max_new_tokens=64)",
    )


def _printed(settings: BaseModel, always: str) -> dict[str, Any]:
    """Settings as an engine is told them: those that are not the defaults, and one that is always told."""
    told = settings.model_dump(mode="json", include={always})
    return told | settings.model_dump(mode="json", exclude_defaults=True)


def _by_files(credentials: Credentials) -> Credentials:
    """Credentials as an engine is told them: files by their whole path.

    Raises:
        BadRequestError: a token in clear: what is printed is copied and kept.
    """
    if credentials.token is not None:
        raise BadRequestError(
            "expected a token in a file, since what is printed here is copied and kept: write it to one, and set "
            "client.credentials.token_file (router.node_credentials.token_file)"
        )
    files = {name: value.absolute() for name, value in credentials if isinstance(value, Path)}
    return credentials.model_copy(update=files)
