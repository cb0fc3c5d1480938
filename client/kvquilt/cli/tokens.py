"""`kvquilt token`: keys that sign bearer tokens, and tokens."""

import re
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from kvquilt.cli.options import Json
from kvquilt.cli.output import explained, out, print_json
from kvquilt_codec.errors import BadRequestError
from kvquilt_rpc.callers import Identity
from kvquilt_rpc.tokens import create_key, create_secret, create_token, write_new

token_app = typer.Typer(no_args_is_help=True, help="Make keys that sign bearer tokens, and tokens.")

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@token_app.command("key")
def key(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="New file of the private key.")],
    shared: Annotated[
        bool, typer.Option("--shared", help="One secret that signs and verifies, instead of a pair of keys.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a key that signs tokens. Servers get the public one, FILE.pub, in `router.security.token_key`."""
    with explained(as_json):
        if shared:
            create_secret(path)
            verifies = path
        else:
            verifies = create_key(path)
        if as_json:
            print_json({"signs": str(path), "verifies": str(verifies)})
        else:
            out.print(f"{path} signs tokens: keep it secret", markup=False)
            out.print(f"{verifies} verifies them: servers need it (router.security.token_key)", markup=False)


@token_app.command("create")
def create(
    key_file: Annotated[Path, typer.Option("--key", help="The private key, or the shared secret.")],
    identity: Annotated[str, typer.Option("--identity", help="Who calls with it; limits and logs go by it.")],
    namespaces: Annotated[
        list[str],
        typer.Option("--namespace", help="Namespace that it may read and write, the first by default; * for all."),
    ],
    expires: Annotated[str, typer.Option("--expires", help="How long it holds, for instance 30m, 24h or 90d.")] = "24h",
    public_write: Annotated[
        bool, typer.Option("--public-write", help="It may store in the namespace public, which all may read.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", help="Write it to this new file, for its owner only.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a bearer token. It is printed unless it is written to a file; clients take it from KVQUILT_TOKEN."""
    with explained(as_json):
        lifetime = seconds(expires)
        now = time.time()
        token = create_token(key_file, Identity(identity, tuple(namespaces), public_write), lifetime, now)
        if output is not None:
            write_new(output, token.encode() + b"\n", 0o600)
        if as_json:
            told = {} if output is not None else {"token": token}
            print_json(
                {**told, "identity": identity, "namespaces": namespaces, "expires_unix_seconds": int(now + lifetime)}
            )
        elif output is None:
            sys.stdout.write(token + "\n")
        else:
            out.print(f"{output} holds the token", markup=False)


def seconds(text: str) -> float:
    """A duration like 90s, 30m, 24h or 7d.

    Raises:
        BadRequestError: something else, or none at all.
    """
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if found is None or int(found[1]) == 0:
        raise BadRequestError(f"expected a duration like 30m, 24h or 7d, above 0; got {text!r}")
    return float(int(found[1]) * _SECONDS[found[2]])
