"""What calibration learns of a model, and its file."""

from kvquilt_codec.profile.types import (
    LayerTransform,
    LevelCard,
    OutlierRule,
    Profile,
    QualityTables,
)

__all__ = ["LayerTransform", "LevelCard", "OutlierRule", "Profile", "QualityTables"]
