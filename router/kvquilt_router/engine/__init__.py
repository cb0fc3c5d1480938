"""The model engine: precompute, merge and selective recompute for any RoPE decoder of HF Transformers."""

from kvquilt_router.engine.blocks import BlockStructure
from kvquilt_router.engine.engine import Engine
from kvquilt_router.engine.model import LoadedModel, load_model
from kvquilt_router.engine.prefill import AttentionSums

__all__ = ["AttentionSums", "BlockStructure", "Engine", "LoadedModel", "load_model"]
