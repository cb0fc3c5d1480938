"""A running router: model, node client, service and server, opened and closed together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import torch

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.identity import Namespace
from kvquilt_codec.levels import parse_level
from kvquilt_proto.v1 import router_pb2_grpc
from kvquilt_router.blending import Blender
from kvquilt_router.engine import LoadedModel, load_model
from kvquilt_router.engine_thread import EngineThread
from kvquilt_router.fetching import Fetcher
from kvquilt_router.holding import HeldChunks
from kvquilt_router.planning import Planner
from kvquilt_router.policies import AnchorPool, policy_by_name
from kvquilt_router.precompute import Precomputer
from kvquilt_router.profiles import ModelProfile, open_profile
from kvquilt_router.service import SERVICE_NAME, RouterService, ServedModel
from kvquilt_router.settings import RouterSettings
from kvquilt_router.types import COUNTERS
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.server import RpcServer


def namespace_of(settings: RouterSettings) -> Namespace:
    """The namespace that the settings name.

    Raises:
        BadRequestError: a namespace other than `public` without a secret, or with a short one.
    """
    if settings.namespace_secret is not None:
        return Namespace(settings.namespace, settings.namespace_secret.get_secret_value().encode())
    if settings.namespace != "public":
        raise BadRequestError(
            f"expected a secret for namespace {settings.namespace!r}; got none: set router.namespace_secret"
        )
    return Namespace.public()


@asynccontextmanager
async def running_router(settings: RouterSettings, model: LoadedModel | None = None) -> AsyncIterator[str]:
    """Run a router; yields its address. On leaving, running calls get `drain_seconds`.

    Args:
        settings: see there.
        model: serve this model instead of loading the one that the settings name.

    Raises:
        NotFoundError, UnsupportedModelError: the model cannot be served.
        UnavailableError: the address is taken.
        FingerprintMismatchError, IntegrityError: the profile is of another model, or none.
        BadRequestError: a level by default that takes a profile, and there is none.
    """
    policy_by_name(settings.policy)
    namespace = namespace_of(settings)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    loaded = (
        model
        if model is not None
        else await asyncio.to_thread(load_model, settings.model, dtype=settings.dtype, device=settings.device)
    )
    thread = EngineThread()
    node = NodeClient(settings.node)
    counters = Counters(COUNTERS)
    try:
        profile = await open_profile(settings.profile, loaded.fingerprint, node, deadline=settings.put_deadline)
        profile.point(parse_level(settings.level))
        served = _served(loaded, namespace, thread, node, counters, profile, settings)
        server = RpcServer(settings.host, settings.port, [SERVICE_NAME])
        router_pb2_grpc.add_RouterServiceServicer_to_server(
            RouterService([served], node, settings, counters), server.server
        )
        address = await server.start()
        background = [asyncio.create_task(served.precomputer.run_backfill()), asyncio.create_task(profile.settle())]
        try:
            yield address
        finally:
            await server.drain(settings.drain_seconds)
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
    finally:
        await node.close()
        await asyncio.to_thread(thread.close)


def _served(
    model: LoadedModel,
    namespace: Namespace,
    thread: EngineThread,
    node: NodeClient,
    counters: Counters,
    profile: ModelProfile,
    settings: RouterSettings,
) -> ServedModel:
    planner = Planner(namespace, model.fingerprint, settings.chunk_tokens)
    fetcher = Fetcher(
        node,
        model.fingerprint,
        counters,
        profile,
        HeldChunks(int(settings.held_bytes)),
        stat_deadline=settings.stat_deadline,
        fetch_deadline=settings.fetch_deadline,
        concurrency=settings.fetch_concurrency,
    )
    precomputer = Precomputer(
        model.engine,
        thread,
        planner,
        node,
        model.fingerprint,
        counters,
        profile,
        stat_deadline=settings.stat_deadline,
        put_deadline=settings.put_deadline,
        queue_length=settings.backfill_queue,
    )
    anchors = AnchorPool(int(settings.anchor_bytes))
    blender = Blender(
        model.engine, thread, planner, fetcher, counters, concurrency=settings.max_blends, anchors=anchors
    )
    return ServedModel(model, blender, precomputer, profile)
