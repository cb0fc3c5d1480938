"""Tiny random models of many families, large enough for their attention to matter."""

from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM

from kvquilt_router.engine import Engine
from kvquilt_router.engine.kv import PromptKV

TOKENS, CONTEXT = 60, 50
"""Of the prompt that tests compute: all of them, and those before the question."""

_COMMON: dict[str, Any] = {
    "vocab_size": 500,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16384,
    "head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}
_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 1024}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "factor": 4.0,
    "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8,
    "original_max_position_embeddings": 1024,
}
_DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
_MIXED_LAYERS = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]

SUPPORTED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "llama with llama3 RoPE": ("LlamaConfig", {"rope_parameters": _LLAMA3}),
    "llama with yarn RoPE": ("LlamaConfig", {"rope_parameters": _YARN}),
    "mistral": ("MistralConfig", {"sliding_window": None}),
    "mistral with a window": ("MistralConfig", {"sliding_window": 24}),
    "mixtral": ("MixtralConfig", _EXPERTS),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {}),
    "qwen3 moe": ("Qwen3MoeConfig", _EXPERTS),
    "gemma": ("GemmaConfig", {}),
    "gemma2": ("Gemma2Config", {"sliding_window": 24, "layer_types": _MIXED_LAYERS}),
    "gemma3": ("Gemma3TextConfig", {"sliding_window": 24, "layer_types": _MIXED_LAYERS}),
    "phi3": ("Phi3Config", {}),
    "olmo2": ("Olmo2Config", {}),
    "granite": ("GraniteConfig", {}),
    "cohere": ("CohereConfig", {}),
    "cohere2": ("Cohere2Config", {"sliding_window": 24, "layer_types": _MIXED_LAYERS}),
    "smollm3": ("SmolLM3Config", {}),
    "glm4": ("Glm4Config", {}),
    "starcoder2": ("Starcoder2Config", {}),
    "gpt_neox": ("GPTNeoXConfig", {}),  # a quarter of each key is rotated
    "gpt_oss": ("GptOssConfig", {**_EXPERTS, "sliding_window": 24, "layer_types": _MIXED_LAYERS}),
}

HEAVY = {"hidden_size": 512, "intermediate_size": 2048, "num_key_value_heads": 1, "head_dim": 32}
"""Of a model with much to compute and little KV: loading it is faster."""

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "learned positions": ("GPT2Config", {"n_positions": 512}, "rotary"),
    "angles that depend on the length": ("LlamaConfig", {"rope_parameters": _DYNAMIC}, "dynamic"),
    "two sets of angles by length": ("Phi3Config", {"rope_parameters": _LONGROPE}, "longrope"),
    "recurrent layers": (
        "Qwen3NextConfig",
        {**_EXPERTS, "shared_expert_intermediate_size": 64, "layer_types": ["linear_attention", "full_attention"] * 2},
        "linear_attention",
    ),
}


def tiny(config: str, extra: dict[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    """A seeded random model in evaluation mode."""
    torch.manual_seed(0)
    settings = getattr(transformers, config)(**{**_COMMON, **extra})
    model = AutoModelForCausalLM.from_config(settings, dtype=dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)  # as initialised, attention is so flat that errors in keys would not show
    return model


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """How far `a` is from `b`."""
    return float((a - b).norm() / b.norm())


def filled(engine: Engine, layers: Any) -> PromptKV:
    """A prompt's KV, copied from a Transformers cache or another prompt's."""
    kv = engine.empty(layers.layers[0].keys.shape[2])
    for layer, source in zip(kv.layers, layers.layers, strict=True):
        layer.keys.copy_(source.keys)
        layer.values.copy_(source.values)
    return kv


def own_attention(model: Any, ids: Any) -> torch.Tensor:
    """What the model itself says of its attention, `[layers, heads, tokens, tokens]`."""
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        output = model(torch.from_numpy(ids.astype(np.int64))[None], output_attentions=True)
    model.set_attn_implementation(implementation)
    return torch.stack([layer[0] for layer in output.attentions])
