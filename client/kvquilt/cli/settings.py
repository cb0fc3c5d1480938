"""Settings: defaults < YAML file < environment (`KVQUILT_...`) < flags; and where each value came from."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kvquilt.aio import DEFAULT_TARGET
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_codec.errors import BadRequestError, NotFoundError
from kvquilt_router.settings import RouterSettings

ENV_PREFIX = "KVQUILT_"
FILE_VARIABLE = "KVQUILT_CONFIG"


class ClientSettings(BaseModel):
    """The commands that call a router."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    router: str = Field(DEFAULT_TARGET, description="The router: host:port, or any gRPC name.")
    deadline: float = Field(60.0, gt=0, description="Seconds a call may take.")


class KvquiltSettings(BaseModel):
    """All settings of an installation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    client: ClientSettings = ClientSettings()
    node: NodeSettings = NodeSettings()
    router: RouterSettings = RouterSettings()


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
        values = dict(_flat(_yaml(chosen)))
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
        where = sources.get(name, "default")
        raise BadRequestError(f"expected a valid {name}; {first['msg']} (from {where})") from None


def leaves() -> Iterator[tuple[str, str]]:
    """Dotted name and description of every setting."""
    for section, field in KvquiltSettings.model_fields.items():
        model = field.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            for name, leaf in model.model_fields.items():
                yield f"{section}.{name}", leaf.description or ""


def value_of(settings: KvquiltSettings, name: str) -> str:
    """A setting as text; secrets are masked."""
    section, _, field = name.partition(".")
    return str(getattr(getattr(settings, section), field))


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
        raise BadRequestError(f"expected sections client, node, router in {file}; got {type(content).__name__}")
    return content


def _flat(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _nested(flat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    tree: dict[str, dict[str, Any]] = {}
    for name, value in flat.items():
        section, _, field = name.partition(".")
        tree.setdefault(section, {})[field] = value
    return tree


def _is_setting(variable: str) -> bool:
    return variable.startswith(ENV_PREFIX) and variable != FILE_VARIABLE


def _dotted(variable: str) -> str:
    return variable.removeprefix(ENV_PREFIX).lower().replace("__", ".", 1)


def _flag(flag: str) -> tuple[str, str]:
    name, equals, value = flag.partition("=")
    if not equals:
        raise BadRequestError(f"expected name=value, for instance router.port=0; got {flag!r}")
    return name.strip(), value
