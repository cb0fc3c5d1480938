"""`kvquilt connect`: what an engine must be told to use a running router."""

from pathlib import Path
from typing import Annotated, Any

import typer

from kvquilt.cli.options import ConfigFile, Json, Nodes, Router, Set, overrides
from kvquilt.cli.output import err, explained, out, print_json
from kvquilt.cli.settings import ClientSettings, KvquiltSettings, load
from kvquilt.connecting import engines
from kvquilt.connecting.fitting import check_config, check_fingerprint, own_data_type
from kvquilt.connecting.types import Asked, Connection
from kvquilt.connecting.warnings import warnings
from kvquilt.errors import BadRequestError, UnavailableError
from kvquilt.states import ModelInfo, Status
from kvquilt.sync import Client
from kvquilt_codec.identity import check_namespace

connect_app = typer.Typer(no_args_is_help=True, help="Print what an engine must be told to use a running router.")

Folder = Annotated[
    Path | None,
    typer.Option("--model", help="Folder of the engine's model: compared with the router's, weights included."),
]
Quick = Annotated[
    bool, typer.Option("--no-weights", help="Compare the model's configuration only, without loading it.")
]
Salts = Annotated[
    list[str] | None,
    typer.Option("--namespace", metavar="SALT=NAME", help="Namespace of requests with this cache_salt. Repeatable."),
]


@connect_app.command("vllm")
def vllm(
    model: Folder = None,
    no_weights: Quick = False,
    namespace: Salts = None,
    router: Router = None,
    flags: Set = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Print the flags of `vllm serve`."""
    with explained(as_json):
        settings = load(config, overrides(flags, client__router=router)).settings
        asked, own_type = _asked(settings.client, model, no_weights, _namespaces(namespace))
        _tell("vllm", asked, own_type, engines.vllm(asked), as_json, engines.PREFIX_CACHING)


@connect_app.command("lmcache")
def lmcache(
    model: Folder = None,
    no_weights: Quick = False,
    namespace: Salts = None,
    master_secret_file: Annotated[
        Path | None, typer.Option(help="With --namespace: file with router.master_secret.")
    ] = None,
    node: Nodes = None,
    router: Router = None,
    flags: Set = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Print the flags of `lmcache server`, whose adapter calls the router's cache nodes themselves."""
    with explained(as_json):
        settings = load(config, overrides(flags, client__router=router, router__nodes=node)).settings
        asked, own_type = _asked(settings.client, model, no_weights, _namespaces(namespace))
        secret = "" if master_secret_file is None else str(master_secret_file.absolute())
        nodes = _nodes(settings, asked, named=node is not None)
        found = engines.lmcache(asked, nodes, settings.router.node_credentials, secret)
        _tell("lmcache", asked, own_type, found, as_json)


@connect_app.command("transformers")
def transformers(
    model: Folder = None,
    no_weights: Quick = False,
    router: Router = None,
    flags: Set = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Print the lines of a program that uses Hugging Face Transformers."""
    with explained(as_json):
        settings = load(config, overrides(flags, client__router=router)).settings
        asked, own_type = _asked(settings.client, model, no_weights, {})
        _tell("transformers", asked, own_type, engines.transformers(asked), as_json)


def _asked(
    settings: ClientSettings, folder: Path | None, no_weights: bool, namespaces: dict[str, str]
) -> tuple[Asked, str]:
    """What is to be connected, checked; and the type of the weights, if that is known."""
    with Client(settings.router, settings.credentials) as client:
        try:
            status = client.status(deadline=settings.deadline)
        except UnavailableError as error:
            if error.reason == "tls_handshake":
                raise
            raise UnavailableError(
                f"{error}. `kvquilt serve --model {folder or 'MODEL'}` starts a router (or `kvquilt node` and `kvquilt "
                "router`), --router names another one"
            ) from None
    verified, own_type = False, ""
    if folder is None:
        model = _only(status)
    else:
        model = _fitting(status, folder)
        own_type = own_data_type(check_config(folder, model))
        verified = not no_weights and check_fingerprint(folder, model)
    named = "" if folder is None else str(folder.absolute())
    return Asked(settings.router, settings.credentials, status, model, named, verified, namespaces), own_type


def _only(status: Status) -> ModelInfo:
    if len(status.models) != 1:
        names = ", ".join(model.name for model in status.models) or "none"
        raise BadRequestError(f"expected a router of one model, or --model with the folder of one; it serves: {names}")
    return status.models[0]


def _fitting(status: Status, folder: Path) -> ModelInfo:
    """The router's model that a folder is compared with: the only one, or that of the same name."""
    same = [model for model in status.models if model.name == folder.name]
    return same[0] if len(same) == 1 else _only(status)


def _namespaces(entries: list[str] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in entries or ():
        salt, equals, name = entry.rpartition("=")
        if not equals or not salt:
            raise BadRequestError(f"expected SALT=NAME, the cache_salt of requests and a namespace; got {entry!r}")
        found[salt] = check_namespace(name)
    return found


def _nodes(settings: KvquiltSettings, asked: Asked, *, named: bool) -> tuple[str, ...]:
    return settings.router.nodes if named else tuple(node.target for node in asked.status.nodes)


def _tell(
    engine: str,
    asked: Asked,
    own_type: str,
    found: tuple[dict[str, Any], tuple[str, ...]],
    as_json: bool,
    *more: str,
) -> None:
    config, lines = found
    model = asked.model
    data_type = model.layout.data_type.value
    told = (*warnings(asked, own_type), *more)
    connection = Connection(
        engine, asked.router, model.name, model.fingerprint, data_type, asked.verified, config, lines, told
    )
    if as_json:
        print_json(connection)
        return
    compared = "the folder's model is the router's" if asked.verified else "not compared with the engine's weights"
    err.print(
        f"router {asked.router}: {model.name}, {model.architecture}, {len(model.layout.layers)} layers, {data_type}; "
        f"{compared}",
        markup=False,
    )
    for warning in told:
        err.print("[yellow]note[/]: ", end="")
        err.print(warning, markup=False)
    for line in lines:
        out.print(line, markup=False)
