"""Settings of who may call: of a server whom it lets in, of a client as whom it calls."""

from pathlib import Path

from pydantic import BaseModel, ByteSize, ConfigDict, Field, SecretStr


class ServerSecurity(BaseModel):
    """Whom a server lets in. Files are read again when they change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tls_cert: Path | None = Field(
        None, description="PEM file: certificate chain of the server; with a key it serves TLS."
    )
    tls_key: Path | None = Field(None, description="PEM file: private key of the certificate.")
    tls_client_ca: Path | None = Field(
        None, description="PEM file: who signs the callers' certificates; every caller then needs one."
    )
    identities: Path | None = Field(
        None, description="YAML file: which identity a certificate's name stands for; needed with tls_client_ca."
    )
    token_key: Path | None = Field(
        None, description="Ed25519 public keys (PEM) or a shared secret of 32 bytes, by which tokens are verified."
    )
    allow_anonymous: bool = Field(False, description="Let everybody in who reaches an address that is not loopback.")
    allow_cleartext: bool = Field(
        False,
        description="Take tokens without TLS on an address that is not loopback: TLS ends in front of the server.",
    )
    calls_per_second: float = Field(0.0, ge=0, description="Calls of one identity; 0 for no limit.")
    calls_at_once: int = Field(0, ge=0, description="Calls of one identity; 0 for no limit.")
    bytes_per_second: ByteSize = Field(ByteSize(0), ge=0, description="Sent by one identity; 0 for no limit.")


class Credentials(BaseModel):
    """As whom a client calls, and how it knows the server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tls: bool = Field(False, description="Call with TLS; implied by tls_ca.")
    tls_ca: Path | None = Field(None, description="PEM file: who signs the server's certificate; unset: the system's.")
    tls_cert: Path | None = Field(None, description="PEM file: the client's own certificate chain, for mutual TLS.")
    tls_key: Path | None = Field(None, description="PEM file: private key of that certificate.")
    token: SecretStr | None = Field(None, description="Bearer token.")
    token_file: Path | None = Field(None, description="File with the bearer token; read again when it changes.")
    namespace: str = Field("", description="Namespace to act in; empty for the identity's first.")
    allow_cleartext: bool = Field(False, description="Send the token without TLS to an address that is not loopback.")
