"""The model engine: precompute, merge and selective recompute for any RoPE decoder of HF Transformers."""

from kvquilt_router.engine.engine import Engine
from kvquilt_router.engine.model import LoadedModel, load_model

__all__ = ["Engine", "LoadedModel", "load_model"]
