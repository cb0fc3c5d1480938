"""Checks that ask cache nodes themselves, past the router: what is on them, caps, keys of another tenant."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing

from kvquilt.checks import Finding, Outcome, SkippedError, judged
from kvquilt.errors import BadRequestError, CapacityError, IntegrityError, KvquiltError
from kvquilt.verifying.subject import Subject, namespace_of
from kvquilt_codec import container
from kvquilt_codec.catalog import ObjectMeta
from kvquilt_codec.forms import StorageForm
from kvquilt_codec.identity import DIGEST_BYTES
from kvquilt_codec.types import Level, VariantKind
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_proto.v1 import cache_node_pb2_grpc
from kvquilt_rpc import convert
from kvquilt_rpc.callers import acting_in
from kvquilt_rpc.channel import open_channel
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.status import translated

_DECLARED = 1 << 62
_NAME_THEM = "name the router's nodes: --node HOST:PORT (as router.node_credentials)"


async def on_nodes(subject: Subject) -> Finding:
    """Every object of this run is on a node, and every checksum of it matches when it is read there."""
    subject.stored  # noqa: B018  skips the check if there is nothing
    objects, damaged = 0, []
    for node in _named(subject):
        for key in await _keys(subject, node):
            try:
                data = await _read(subject, node, key)
                container.verify(data)
                objects += 1
            except KvquiltError as error:
                damaged.append(f"{key.hex()[:16]}... at {node.target}: {error}")
    expected = "objects of this run on the nodes, all checksums right"
    if not objects and not damaged:
        return Finding(Outcome.FAILED, expected, "none", "are these the nodes of this router?")
    return judged(not damaged, expected, "; ".join(damaged) or f"{objects} objects", "`kvquilt repair`")


async def caps(subject: Subject) -> Finding:
    """Nodes say what they may hold, and hold no more."""
    state = await subject.client.status(deadline=subject.options.deadline)
    nodes = [node for node in state.nodes if node.reachable]
    if not any(node.capacity_bytes for node in nodes):
        raise SkippedError(
            "how full nodes are is shown to callers of all namespaces only", "verify with a token of the namespace *"
        )
    over = [node for node in nodes if node.used_bytes > node.capacity_bytes]
    return judged(
        not over,
        "no node holds more than its capacity",
        "; ".join(f"{node.target}: {node.used_bytes} of {node.capacity_bytes} bytes" for node in over or nodes),
        "what is pinned stays above a capacity that was lowered: `kvquilt unpin`, or raise node.capacity",
    )


async def cap_refusal(subject: Subject) -> Finding:
    """A put that cannot fit is refused by the size that it declares: nothing is sent, and nothing makes room for it.

    A real put beyond the cap would evict what is others'.
    """
    namespace = namespace_of(subject.credentials, subject.known)
    expected = "a put that declares more than any store holds is refused before its bytes are sent"
    for node in _named(subject):
        if await _taken(subject, node.target, namespace):
            got = f"{node.target} would have taken {_DECLARED} bytes"
            return Finding(Outcome.FAILED, expected, got, "set node.max_object below node.capacity")
    return Finding(Outcome.PASSED, expected, f"refused by {len(subject.nodes)} nodes")


async def isolation_by_key(subject: Subject) -> Finding:
    """Who acts in another namespace is told nothing of the keys of this run."""
    subject.stored  # noqa: B018
    if subject.other is None or subject.other_credentials is None:
        raise SkippedError("no second identity", "give one: --other-token FILE, of another namespace")
    state = await subject.other.status(deadline=subject.options.deadline)
    namespace = namespace_of(subject.other_credentials, state)
    keys, told = 0, list[bytes]()
    for node in _named(subject):
        own = await _keys(subject, node)
        keys += len(own)
        with acting_in(namespace):
            told += await node.stat(own, deadline=subject.options.deadline) if own else ()
    if not keys:
        raise SkippedError("this run's objects are not on the nodes that were named", _NAME_THEM)
    expected = f"none of the {keys} keys of this run exists in namespace {namespace!r}"
    return judged(not told, expected, f"{len(told)} do", "both identities act in one namespace, or nodes do not ask")


def _named(subject: Subject) -> Iterator[NodeClient]:
    if not subject.nodes:
        raise SkippedError("nodes were not named", _NAME_THEM)
    yield from subject.nodes


async def _keys(subject: Subject, node: NodeClient) -> list[bytes]:
    """Keys of the objects of this run on a node."""
    namespace = namespace_of(subject.credentials, await subject.client.status(deadline=subject.options.deadline))
    keys = []
    async with aclosing(node.objects.pages(namespace, deadline=subject.options.deadline)) as pages:
        async for page in pages:
            keys += [listed.info.key for listed in page.objects if subject.documents.keys() & set(listed.documents)]
    return keys


async def _read(subject: Subject, node: NodeClient, key: bytes) -> bytes:
    namespace = namespace_of(subject.credentials, subject.known)
    data = bytearray()
    with acting_in(namespace):
        async with aclosing(node.get(key, subject.model.fingerprint, deadline=subject.options.deadline)) as pieces:
            async for piece in pieces:
                if isinstance(piece, bytes | bytearray | memoryview):
                    data += piece
    return await asyncio.to_thread(bytes, data)


async def _taken(subject: Subject, target: str, namespace: str) -> bool:
    """Whether a node waits for the bytes of a put that declares far too many."""
    digest = bytes(DIGEST_BYTES)
    form = StorageForm(Level.LOSSLESS)
    fingerprint = subject.model.fingerprint
    meta = ObjectMeta(fingerprint, (), 1, VariantKind.BASE, form, 0.0, digest, digest, digest, namespace=namespace)
    header = pb.PutChunkHeader(object_key=digest, meta=convert.meta_to_wire(meta), payload_bytes=_DECLARED)
    channel = open_channel(target, subject.node_credentials)
    try:
        stub = cache_node_pb2_grpc.CacheNodeServiceStub(channel)
        with acting_in(namespace):
            async with translated():
                await stub.PutChunk(iter([pb.PutChunkRequest(header=header)]), timeout=subject.options.deadline)
    except (BadRequestError, CapacityError):
        return False
    except IntegrityError:  # it waited for frames, and none came
        return True
    finally:
        await channel.close()
    return True
