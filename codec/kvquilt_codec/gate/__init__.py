"""What is measured of ways to blend, per model and codec profile, and its file. Choosing is the router's."""

from kvquilt_codec.gate.types import CONTEXTS, Gate, GatePoint

__all__ = ["CONTEXTS", "Gate", "GatePoint"]
