"""Settings: defaults < YAML file < environment (`KVQUILT_...`) < flags; and where each value came from."""

import functools
import json
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from kvquilt.aio import DEFAULT_TARGET
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_codec.errors import BadRequestError, NotFoundError
from kvquilt_router.settings import RouterSettings
from kvquilt_rpc.exporting import TracingSettings
from kvquilt_rpc.logs import LogSettings
from kvquilt_rpc.security import Credentials

ENV_PREFIX = "KVQUILT_"
FILE_VARIABLE = "KVQUILT_CONFIG"
TOKEN_VARIABLE = "KVQUILT_TOKEN"  # noqa: S105  the name of a variable
"""Short for the token of `client.credentials`."""


class ClientSettings(BaseModel):
    """The commands that call a router."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    router: str = Field(DEFAULT_TARGET, description="The router: host:port, dns:///name:port or unix:path.")
    deadline: float = Field(60.0, gt=0, description="Seconds a call may take.")
    credentials: Credentials = Credentials()


class KvquiltSettings(BaseModel):
    """All settings of an installation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    client: ClientSettings = ClientSettings()
    node: NodeSettings = NodeSettings()
    router: RouterSettings = RouterSettings()
    log: LogSettings = LogSettings()
    tracing: TracingSettings = TracingSettings()


class Loaded(BaseModel):
    """Effective settings, and for every dotted name its source: "default", the file's path, the variable, "flag"."""

    model_config = ConfigDict(frozen=True)

    settings: KvquiltSettings
    sources: dict[str, str]


def default_file() -> Path:
    """The file that is read if no other is named and it exists: `$XDG_CONFIG_HOME/kvquilt/kvquilt.yaml`."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "kvquilt" / "kvquilt.yaml"


def load(file: Path | None = None, flags: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Loaded:
    """Effective settings.

    Args:
        file: YAML file; by default the one that `KVQUILT_CONFIG` names, else `default_file` if it exists.
        flags: "name=value" with dotted names, for instance "router.port=0".
        environment: variables; by default those of the process.

    Raises:
        NotFoundError: a named file does not exist.
        BadRequestError: an unknown name or a value that cannot be, with its source.
    """
    variables = os.environ if environment is None else environment
    layers: list[tuple[dict[str, Any], dict[str, str]]] = []
    chosen = _file(file, variables)
    if chosen is not None:
        values = dict(_flat(_yaml(chosen), dict(leaves())))
        layers.append((values, dict.fromkeys(values, str(chosen))))
    values = {_dotted(name): value for name, value in variables.items() if _is_setting(name)}
    layers.append((values, {_dotted(name): name for name in variables if _is_setting(name)}))
    values = dict(_flag(flag) for flag in flags)
    layers.append((values, dict.fromkeys(values, "flag")))
    merged: dict[str, Any] = {}
    sources = dict.fromkeys((name for name, _ in leaves()), "default")
    for values, origins in layers:
        for name, value in values.items():
            if name not in sources:
                raise BadRequestError(
                    f"expected a setting that `kvquilt config show` lists; got {name!r} from {origins[name]}"
                )
            merged[name] = value
            sources[name] = origins[name]
    try:
        return Loaded(settings=KvquiltSettings.model_validate(_nested(merged)), sources=sources)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        where = next((source for setting, source in sources.items() if f"{name}.".startswith(f"{setting}.")), "default")
        raise BadRequestError(f"expected a valid {name}; {first['msg']} (from {where})") from None


def leaves(model: type[BaseModel] = KvquiltSettings, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted name and description of every setting."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from leaves(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.description or ""


def value_of(settings: KvquiltSettings, name: str) -> str:
    """A setting as text; secrets are masked."""
    return text_of(functools.reduce(getattr, name.split("."), settings))


def secrets_of(settings: BaseModel) -> Iterator[str]:
    """Every secret among settings, and the password of one that is a URL."""
    for _, value in settings:
        if isinstance(value, BaseModel):
            yield from secrets_of(value)
        elif isinstance(value, SecretStr):
            secret = value.get_secret_value()
            yield secret
            if "://" in secret:
                who = secret.partition("://")[2].rpartition("@")[0]
                yield who.partition(":")[2]
                yield unquote(who.partition(":")[2])


def text_of(value: object) -> str:
    """A setting's value as it may be written: a list with commas, a mapping in JSON."""
    if isinstance(value, dict):
        return json.dumps({name: item.model_dump(mode="json", exclude_defaults=True) for name, item in value.items()})
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _file(file: Path | None, variables: Mapping[str, str]) -> Path | None:
    named = file if file is not None else (Path(variables[FILE_VARIABLE]) if FILE_VARIABLE in variables else None)
    if named is None:
        return default_file() if default_file().is_file() else None
    if not named.is_file():
        raise NotFoundError(f"expected a configuration file; {str(named)!r} does not exist")
    return named


def _yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadRequestError(f"expected YAML in {file}; got {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        sections = ", ".join(KvquiltSettings.model_fields)
        raise BadRequestError(f"expected sections {sections} in {file}; got {type(content).__name__}")
    return content


def _flat(tree: Mapping[Any, Any], known: Container[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values by dotted name; a mapping that is itself a setting's value stays one."""
    for name, value in tree.items():
        if isinstance(value, dict) and f"{prefix}{name}" not in known:
            yield from _flat(value, known, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *sections, field = name.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[field] = value
    return tree


def _is_setting(variable: str) -> bool:
    return variable.startswith(ENV_PREFIX) and variable != FILE_VARIABLE


def _dotted(variable: str) -> str:
    if variable == TOKEN_VARIABLE:
        return "client.credentials.token"
    return variable.removeprefix(ENV_PREFIX).lower().replace("__", ".")


def _flag(flag: str) -> tuple[str, str]:
    name, equals, value = flag.partition("=")
    if not equals:
        raise BadRequestError(f"expected name=value, for instance router.port=0; got {flag!r}")
    return name.strip(), value
