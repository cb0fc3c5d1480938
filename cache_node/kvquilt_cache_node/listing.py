"""What a node tells of what it holds: only of namespaces that the caller may read, in messages of bounded size."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from kvquilt_cache_node.types import Store
from kvquilt_codec.catalog import ObjectInfo
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_rpc import convert
from kvquilt_rpc.callers import Identity

PAGE_OBJECTS = 256
MESSAGE_BYTES = 1 << 20
"""A message ends with the object that makes it as large as this."""
LISTED_DOCUMENTS = 1024
MAX_NAMESPACES = 4096


def readable(identity: Identity, namespace: str) -> frozenset[str] | None:
    """The namespaces whose objects a caller is told; `None`: all.

    Args:
        identity: of the caller.
        namespace: the only one that it asks for; empty: all that it may read as its own.

    Raises:
        BadRequestError: that is no namespace's name.
        PermissionDeniedError: it may not read that one.
    """
    if namespace:
        return frozenset({identity.acting(namespace).namespace})
    return None if identity.may_see_all else frozenset(identity.namespaces)


async def listed(store: Store, namespaces: frozenset[str] | None) -> AsyncGenerator[pb.ListObjectsResponse, None]:
    """The objects of these namespaces (`None`: of all); one message is held at a time."""
    message = pb.ListObjectsResponse(store=store.name)
    size = 0
    async with aclosing(store.pages(PAGE_OBJECTS)) as pages:
        async for page in pages:
            for info in page:
                if namespaces is not None and info.meta.namespace not in namespaces:
                    continue
                item = _item(info)
                message.objects.append(item)
                size += item.ByteSize()
                if size >= MESSAGE_BYTES or len(message.objects) >= PAGE_OBJECTS:
                    yield message
                    message, size = pb.ListObjectsResponse(store=store.name), 0
    yield message


async def held(store: Store, own: str) -> list[pb.NamespaceObjects]:
    """What the namespaces hold, at most `MAX_NAMESPACES`, those that hold most first.

    Args:
        store: of the node.
        own: the only one that is told of; empty: all.
    """
    usage = await store.usage_by_namespace()
    told = sorted(((name, of) for name, of in usage.items() if own in ("", name)), key=lambda item: -item[1].used_bytes)
    return [
        pb.NamespaceObjects(namespace=name, objects=of.objects, used_bytes=of.used_bytes)
        for name, of in told[:MAX_NAMESPACES]
    ]


def _item(info: ObjectInfo) -> pb.ListedObject:
    documents = info.meta.document_ids
    short = replace(info, meta=replace(info.meta, sources=()))
    return pb.ListedObject(
        info=convert.info_to_wire(short),
        document_ids=sorted(documents)[:LISTED_DOCUMENTS],
        document_count=len(documents),
    )
