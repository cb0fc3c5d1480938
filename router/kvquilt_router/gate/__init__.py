"""The gate: the measured proof, per model, that a way to blend stays within a divergence limit. No gate, no blend."""

from kvquilt_router.gate.choose import choose
from kvquilt_router.gate.types import Decision

__all__ = ["Decision", "choose"]
