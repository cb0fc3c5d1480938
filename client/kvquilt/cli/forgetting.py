"""`kvquilt forget`: documents, or a whole namespace, through a router or straight at the cache nodes."""

from typing import Annotated

import typer

from kvquilt.cli.calls import client_settings
from kvquilt.cli.nodes import call_nodes
from kvquilt.cli.options import ConfigFile, Json, Nodes, Router, Set, overrides
from kvquilt.cli.output import explained, out, print_json, size
from kvquilt.receipts import ForgetReport
from kvquilt.sync import Client
from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.identity import check_namespace


def forget(
    documents: Annotated[
        list[str] | None, typer.Argument(help="Document ids; for files, the paths they were prefetched by.")
    ] = None,
    namespace: Annotated[
        str, typer.Option(help="Instead of documents: forget everything that this namespace has.")
    ] = "",
    router: Router = None,
    node: Nodes = None,
    flags: Set = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Delete everything stored for documents, or for a namespace, and say what went.

    Text that another document holds too stays, and is counted. With --node a namespace is forgotten straight at the
    cache nodes, as router.node_credentials; what a running router knows of it is not.
    """
    with explained(as_json):
        if bool(documents) == bool(namespace):
            raise BadRequestError("expected documents, or --namespace; got " + ("both" if namespace else "neither"))
        if node is not None and not namespace:
            raise BadRequestError("expected --namespace with --node: documents are forgotten through a router")
        if namespace:
            check_namespace(namespace)
        if node is not None:
            own = overrides(flags, router__nodes=node)
            done = call_nodes(config, own, lambda nodes, seconds: nodes.forget_namespace(namespace, deadline=seconds))
            receipt = ForgetReport(len(done.deleted), done.deleted_bytes, done.kept_shared, done.pending)
        else:
            settings = client_settings(config, flags, router)
            credentials = settings.credentials
            if namespace:
                credentials = credentials.model_copy(update={"namespace": namespace})
            with Client(settings.router, credentials) as client:
                everything = bool(namespace)
                receipt = client.forget(*(documents or ()), everything=everything, deadline=settings.deadline)
        if as_json:
            print_json(receipt)
        else:
            out.print(
                f"deleted {receipt.objects_deleted} objects, {size(receipt.bytes_deleted)}; "
                f"kept {receipt.objects_kept_shared} that other documents hold"
            )
            if receipt.objects_pending:
                out.print(f"the bytes of {receipt.objects_pending} are deleted later: a store cannot be reached")
