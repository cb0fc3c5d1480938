"""The fingerprint of a loaded model: everything that changes its KV bytes."""

import hashlib
from typing import Any

import torch

from kvquilt_codec.identity import ModelFingerprint, canonical_json

# Fields that name or describe but do not change what is computed. Everything else counts: an unknown new field that
# changes nothing costs a miss, an unknown one that is left out could serve wrong bytes.
_IGNORED = {
    "_name_or_path",
    "_model_name_or_path",
    "_attn_implementation",
    "architectures",
    "bos_token_id",
    "chunk_size_feed_forward",
    "dtype",
    "eos_token_id",
    "id2label",
    "initializer_range",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "problem_type",
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "unk_token_id",
    "use_cache",
}


def fingerprint(model: Any, tokenizer: Any | None) -> ModelFingerprint:
    """Fingerprint of a Transformers model and its tokenizer."""
    config = {key: value for key, value in model.config.to_dict().items() if key not in _IGNORED}
    rope = config.pop("rope_parameters", None)
    adapters = getattr(model, "peft_config", None)
    return ModelFingerprint(
        architecture=canonical_json({"class": type(model).__name__, "config": config}),
        rope=canonical_json({"rope": rope}),
        data_type=str(model.dtype).removeprefix("torch."),
        weights_digest=weights_digest(model),
        tokenizer_digest="" if tokenizer is None else tokenizer_digest(tokenizer),
        adapter_digest="" if not adapters else _sha256(repr(sorted(adapters.items(), key=str)).encode()),
    )


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 (hex) over name, type, shape and bytes of every tensor, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|{data.nbytes}|".encode())
        digest.update(data)
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 (hex) over the tokenizer's own serialised form, or over its vocabulary if it has none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return _sha256(backend.to_str().encode())
    return _sha256(canonical_json(dict(sorted(tokenizer.get_vocab().items()))).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
