"""Calibration: learns from a model and texts how that model's KV is best stored, and measures what it promises."""

from kvquilt_router.calibration.calibrate import calibrate
from kvquilt_router.calibration.progress import Progress
from kvquilt_router.calibration.quality import Measured, Quality
from kvquilt_router.calibration.texts import Piece, Text, cut

__all__ = ["Measured", "Piece", "Progress", "Quality", "Text", "calibrate", "cut"]
