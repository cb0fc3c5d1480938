"""Settings of the log."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class LogSettings(BaseModel):
    """What a server writes to standard error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["text", "json"] = Field("text", description="Lines for people, or one JSON object a line.")
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least that is written.")
    lines_per_second: int = Field(
        100, ge=1, le=1_000_000, description="Most lines a second; a tenth of it from one place. The rest is counted."
    )
