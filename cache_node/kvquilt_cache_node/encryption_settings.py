"""Settings of encryption at rest."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator


class EncryptionSettings(BaseModel):
    """What a node seals its objects with; neither: they are stored as they are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encryption_key: SecretStr | None = Field(
        None, description="Encrypts at rest: 32 bytes in base64, or several keys, of which the first one encrypts."
    )
    encryption_key_file: Path | None = Field(None, description="File that holds them instead.")

    @model_validator(mode="after")
    def _one_place(self) -> "EncryptionSettings":
        if self.encryption_key is not None and self.encryption_key_file is not None:
            raise ValueError("expected node.encryption_key or node.encryption_key_file; got both")
        return self
