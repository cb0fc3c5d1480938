"""Settings of the status page."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Names = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda v: tuple(filter(None, map(str.strip, v.split(",")))) if isinstance(v, str) else v),
]
"""A list, or a text with commas."""


class StatusPageSettings(BaseModel):
    """What `RouterSettings` has of the status page."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    status_port: int | None = Field(
        None, ge=0, le=65535, description="Port of the status page; 0 takes a free one. Unset: there is none."
    )
    status_host: str = Field("127.0.0.1", description="Address that the status page is on.")
    status_names: Names = Field(
        (), description="DNS names by which browsers may ask for the status page, beside localhost and addresses."
    )
    status_requests: int = Field(32, ge=1, le=256, description="Latest requests that the status page shows.")
    status_text: bool = Field(False, description="Show the text of prompts on the status page, to those who sent them.")
