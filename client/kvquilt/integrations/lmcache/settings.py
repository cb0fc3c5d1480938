"""Parameters of the adapter, as LMCache's `adapter_params` give them. Needs no LMCache."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, ValidationError

from kvquilt_codec.errors import BadRequestError, NotFoundError
from kvquilt_codec.identity import MIN_MASTER_BYTES, PUBLIC, Namespace, check_namespace
from kvquilt_codec.types import Level
from kvquilt_rpc.nodes.membership import parse_address
from kvquilt_rpc.nodes.types import PoolOptions
from kvquilt_rpc.security import Credentials

MAX_HEAD_DIM = 1024


def _split(value: object) -> object:
    return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value


def _addresses(entries: tuple[str, ...]) -> tuple[str, ...]:
    try:
        for entry in entries:
            parse_address(entry)
    except BadRequestError as error:
        raise ValueError(str(error)) from None
    return entries


def _namespace(name: str) -> str:
    try:
        return check_namespace(name)
    except BadRequestError as error:
        raise ValueError(str(error)) from None


NamespaceName = Annotated[str, AfterValidator(_namespace)]


class ModelSettings(BaseModel):
    """What LMCache does not tell of a model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    revision: str = Field("", description="Whatever tells these weights from others of the same name; part of keys.")
    level: Literal["lossless", "high"] = Field(
        "lossless", description="How KV is stored: bit by bit, or in 8 bits, which takes a head_dim."
    )
    head_dim: int = Field(
        0, ge=0, le=MAX_HEAD_DIM, description="Elements of one head's key, by which 8 bits are scaled; 0: not known."
    )
    seconds_per_token: float = Field(
        0.0, ge=0, description="What computing a token takes, for nodes that weigh objects by cost; 0: not known."
    )

    @property
    def stored_level(self) -> Level:
        """The level, as the codec names it."""
        return Level(self.level)


class AdapterSettings(BaseModel):
    """The adapter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    nodes: Annotated[tuple[str, ...], BeforeValidator(_split), AfterValidator(_addresses)] = Field(
        ("127.0.0.1:7411",), min_length=1, description="Cache nodes, a list or a text with commas, as router.nodes."
    )
    shared_store: bool = Field(False, description="All nodes have the same stores, as router.shared_store.")
    credentials: Credentials = Field(Credentials(), description="As whom nodes are called, as client.credentials.")
    master_secret_file: Path | None = Field(
        None, description="File with the secret of which namespaces' secrets are derived, as router.master_secret."
    )
    namespace: NamespaceName = Field(PUBLIC, description="Namespace of requests without a cache_salt.")
    namespaces: dict[str, NamespaceName] = Field({}, description="Namespaces by cache_salt.")
    unknown_salts: Literal["refuse", "derive"] = Field(
        "refuse", description="Of other salts nothing is stored or found; or each has a namespace of its own."
    )
    models: dict[str, ModelSettings] = Field({}, description="Models by the name that LMCache has for them.")
    ttl: float = Field(0.0, ge=0, description="Seconds after which an object goes; 0 leaves it to the nodes.")
    workers: int = Field(2, ge=1, le=64, description="Threads that encode and decode.")
    calls: int = Field(8, ge=1, le=256, description="Objects that are stored or loaded at once.")
    store_bytes: ByteSize = Field(
        ByteSize(4 << 30), ge=0, description="Raw KV that waits to be stored; further stores are dropped and counted."
    )
    lookup_deadline: float = Field(0.5, gt=0, le=600, description="Seconds of a look-up; later it found nothing.")
    load_deadline: float = Field(10.0, gt=0, le=600, description="Seconds of a load; what is not there then is missed.")
    put_deadline: float = Field(30.0, gt=0, le=600, description="Seconds to store one object.")

    @property
    def pool(self) -> PoolOptions:
        """How the nodes are called."""
        return PoolOptions(shared_store=self.shared_store)

    def model(self, name: str) -> ModelSettings:
        """What is said of a model, or the defaults."""
        return self.models.get(name, ModelSettings())

    def master_secret(self) -> bytes:
        """The master secret, empty without one.

        Raises:
            NotFoundError: the file cannot be read.
            BadRequestError: it holds fewer than 32 bytes.
        """
        if self.master_secret_file is None:
            return b""
        try:
            secret = self.master_secret_file.read_bytes().strip()
        except OSError as error:
            raise NotFoundError(f"expected to read {self.master_secret_file}; got {error.strerror}") from None
        if len(secret) < MIN_MASTER_BYTES:
            raise BadRequestError(
                f"expected at least {MIN_MASTER_BYTES} bytes in {self.master_secret_file}; got {len(secret)}"
            )
        return secret


def parsed(params: Mapping[str, Any]) -> AdapterSettings:
    """Checked parameters.

    Raises:
        BadRequestError: an unknown name, a value that cannot be, or namespaces without a master secret.
    """
    try:
        settings = AdapterSettings.model_validate(params)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(AdapterSettings.model_fields)
            raise BadRequestError(f"expected parameters of kvquilt's adapter: {known}; got {name!r}") from None
        raise BadRequestError(f"expected a valid {name} for kvquilt's adapter; {first['msg']}") from None
    if settings.credentials.namespace:
        raise BadRequestError("expected no credentials.namespace: salts choose namespaces; set namespace")
    for name, model in settings.models.items():
        if model.stored_level is Level.HIGH and not model.head_dim:
            raise BadRequestError(f"expected a head_dim for level high of {name!r}: 8 bits are scaled by head")
    if settings.master_secret_file is None:
        named = next((name for name in (settings.namespace, *settings.namespaces.values()) if name != PUBLIC), None)
        if named is not None or settings.unknown_salts == "derive":
            raise BadRequestError(
                f"expected a master_secret_file for namespace {named or 'of a salt'!r}: only {PUBLIC!r} has no secret"
            )
    return settings


def described() -> str:
    """All parameters, a line each."""
    lines = [f"- {name}: {field.description}" for name, field in AdapterSettings.model_fields.items()]
    inner = [f"    {name}: {field.description}" for name, field in ModelSettings.model_fields.items()]
    at = next(place for place, line in enumerate(lines) if line.startswith("- models:"))
    return "\n".join(["kvquilt's adapter (docs/lmcache.md):", *lines[: at + 1], *inner, *lines[at + 1 :]])


def namespace_of(name: str, master_secret: bytes) -> Namespace:
    """A namespace with its secret; of `parsed` settings it exists."""
    return Namespace.public() if name == PUBLIC else Namespace.derived(name, master_secret)
