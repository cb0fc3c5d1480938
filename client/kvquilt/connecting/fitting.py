"""Is a folder's model the one that a router serves: by its configuration, and by its fingerprint."""

import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kvquilt.errors import BadRequestError, FingerprintMismatchError, NotFoundError
from kvquilt.states import ModelInfo

MAX_CONFIG_BYTES = 4 << 20


def check_config(folder: Path, model: ModelInfo) -> Mapping[str, Any]:
    """The configuration of a folder's model, if it has the shape of the router's.

    Raises:
        NotFoundError: there is no `config.json`.
        BadRequestError: it cannot be read.
        FingerprintMismatchError: it is of a model of another class or shape.
    """
    config = _read(folder / "config.json")
    for what, expected, got in _compared(config, model):
        if got is not None and got != expected:
            raise FingerprintMismatchError(
                f"expected the model that the router serves ({model.name}), which has {what} {expected}; {folder} has "
                f"{got}: serve the router's model, or start a router with --model {folder}"
            )
    return config


def own_data_type(config: Mapping[str, Any]) -> str:
    """The type that a model's weights are stored in, by its configuration; empty if that does not say."""
    text = config.get("text_config")
    inner = text if isinstance(text, dict) else {}
    for source in (config, inner):
        for name in ("dtype", "torch_dtype"):
            if isinstance(source.get(name), str):
                return str(source[name]).removeprefix("torch.")
    return ""


def check_fingerprint(folder: Path, model: ModelInfo) -> bool:
    """Compare all of a folder's model with the router's: weights, tokenizer, RoPE; loads it. False: that needs torch.

    Raises:
        FingerprintMismatchError: they differ.
        BadRequestError: the folder cannot be loaded.
    """
    if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")):
        return False
    from transformers.utils.logging import disable_progress_bar

    from kvquilt_router.engine.model import load_model  # imports torch

    disable_progress_bar()  # it would be written among what is for machines
    loaded = load_model(str(folder), dtype=model.layout.data_type.value)
    if loaded.fingerprint != model.fingerprint:
        raise FingerprintMismatchError(
            f"expected the router's model, fingerprint {model.fingerprint[:16]}...; {folder} loaded as "
            f"{model.layout.data_type.value} has {loaded.fingerprint[:16]}...: weights, tokenizer or configuration "
            f"differ: serve the router's model, or start a router with --model {folder}"
        )
    return True


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise NotFoundError(f"expected a folder with a Hugging Face model; {str(path)!r} does not exist")
    try:
        with path.open("rb") as file:
            config = json.loads(file.read(MAX_CONFIG_BYTES))
    except (OSError, ValueError) as error:
        raise BadRequestError(f"expected a configuration in JSON at {path}; got {error}") from None
    if not isinstance(config, dict):
        raise BadRequestError(f"expected a configuration in JSON at {path}; got {type(config).__name__}")
    return config


def _compared(config: Mapping[str, Any], model: ModelInfo) -> Iterator[tuple[str, object, object]]:
    """What both say: its name, the router's value, the folder's, or `None` where it does not say."""
    text = config.get("text_config")
    inner = text if isinstance(text, dict) else config
    architectures = config.get("architectures")
    named = architectures[0] if isinstance(architectures, list) and architectures else None
    yield "class", model.architecture, named
    yield "layers", len(model.layout.layers), inner.get("num_hidden_layers")
    first = model.layout.layers[0]
    heads = inner.get("num_key_value_heads", inner.get("num_attention_heads"))
    alike = all(layer == first for layer in model.layout.layers)
    yield "KV heads", first.kv_heads, heads if alike else None
    yield "head dimension", first.key_dim, inner.get("head_dim") if alike else None
    yield "context", model.max_context_tokens, inner.get("max_position_embeddings")
