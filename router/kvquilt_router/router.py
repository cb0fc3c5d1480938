"""A running router: model, cache nodes, service and server, opened and closed together."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import torch

from kvquilt_codec.identity import Namespace
from kvquilt_codec.levels import parse_level
from kvquilt_proto.v1 import router_pb2_grpc
from kvquilt_router import wire
from kvquilt_router.access_log import AccessLog
from kvquilt_router.auditing import Auditor
from kvquilt_router.background import Background
from kvquilt_router.blending import Blender
from kvquilt_router.checking import check_settings
from kvquilt_router.computing import ContextCache, VariantComputer
from kvquilt_router.counters import COUNTERS
from kvquilt_router.engine import LoadedModel, load_model
from kvquilt_router.engine_thread import EngineThread
from kvquilt_router.estimates import Estimates
from kvquilt_router.fetching import Fetcher
from kvquilt_router.finding import Finder
from kvquilt_router.forgetting import Forgetting
from kvquilt_router.gate.opening import ModelGate, open_gate
from kvquilt_router.heads import HeadFinder
from kvquilt_router.holding import HeldChunks
from kvquilt_router.lanes import blend_slots, lanes, load_slots
from kvquilt_router.loading import HeadLoader
from kvquilt_router.lookup import Lookup
from kvquilt_router.metrics.collecting import METRICS, RouterMetrics
from kvquilt_router.metrics.meter import RouterMeter
from kvquilt_router.namespaces import master_secret
from kvquilt_router.offering import Offers
from kvquilt_router.overview import Overview
from kvquilt_router.planning import Planner
from kvquilt_router.policies import AnchorPools
from kvquilt_router.precompute import Precomputer
from kvquilt_router.prefixes import KnownPrefixes
from kvquilt_router.profiles import ModelProfile, open_profile
from kvquilt_router.recording import Recorder
from kvquilt_router.refusals import Refusals
from kvquilt_router.served import ServedModel
from kvquilt_router.service import SERVICE_NAME, RouterService
from kvquilt_router.settings import RouterSettings
from kvquilt_router.starting import Starter
from kvquilt_router.status_page.serving import status_page_served
from kvquilt_router.storing import Storer
from kvquilt_router.taking import Taker
from kvquilt_router.tenants import Tenant, Tenants
from kvquilt_router.usage import NamespaceUsage
from kvquilt_router.warming import WarmUps
from kvquilt_router.why.explaining import Explainer
from kvquilt_router.why.records import RequestLog
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.metrics.serving import metrics_served
from kvquilt_rpc.metrics.values import Named
from kvquilt_rpc.nodes import CacheNodes, open_nodes
from kvquilt_rpc.pace import Pace
from kvquilt_rpc.server import RpcServer


@asynccontextmanager
async def running_router(settings: RouterSettings, model: LoadedModel | None = None) -> AsyncIterator[str]:
    """Run a router; yields its address. On leaving, running calls get `drain_seconds`.

    Args:
        settings: see there.
        model: serve this model instead of loading the one that the settings name.

    Raises:
        NotFoundError, UnsupportedModelError: the model cannot be served.
        UnavailableError: the address is taken, or the folder of the access log cannot be written.
        FingerprintMismatchError, IntegrityError: the profile is of another model, or none; so is a gate that is named.
        BadRequestError: a level by default that takes a profile, and there is none; an access log without pyarrow, or
            metrics without prometheus-client.
    """
    check_settings(settings)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    loaded = (
        model
        if model is not None
        else await asyncio.to_thread(load_model, settings.model, dtype=settings.dtype, device=settings.device)
    )
    counters, meter = Counters(COUNTERS), RouterMeter()
    access_log = await asyncio.to_thread(_access_log, settings, counters)
    thread = EngineThread(settings.background_share)
    credentials = settings.node_credentials
    try:
        async with open_nodes(
            settings.nodes, settings.pool_options(), counters, credentials=credentials, answered=meter.answered
        ) as nodes:
            profile = await open_profile(settings.profile, loaded.fingerprint, nodes, deadline=settings.put_deadline)
            profile.point(parse_level(settings.level))
            gate = await open_gate(settings, loaded.fingerprint, profile, nodes, counters)
            recorder = None if access_log is None else Recorder(access_log, loaded.engine.traits.layout)
            forgetting = Forgetting()
            served = _served(loaded, thread, nodes, counters, profile, gate, forgetting, settings, recorder, meter)
            server = RpcServer(
                settings.host,
                settings.port,
                [SERVICE_NAME],
                settings.security,
                counters,
                settings.health_port,
                settings.max_connection_age,
                lanes=lanes(settings, counters),
            )
            overview = Overview([served], nodes, settings, counters)
            router_pb2_grpc.add_RouterServiceServicer_to_server(
                RouterService([served], nodes, settings, forgetting, overview), server.server
            )
            metrics = RouterMetrics(settings, server, served, nodes, counters, meter, thread, access_log)
            async with metrics_served(settings, METRICS, metrics.collect):
                address = await server.start()
                running = (served.background.run(), served.auditor.run(), profile.settle(), gate.run())
                background = [asyncio.create_task(work) for work in running]
                try:
                    async with status_page_served(settings, overview, counters):
                        yield address
                finally:
                    await server.drain(settings.drain_seconds)
                    for task in background:
                        task.cancel()
                    await asyncio.gather(*background, return_exceptions=True)
    finally:
        await asyncio.to_thread(thread.close)
        if access_log is not None:
            await asyncio.to_thread(access_log.close, settings.drain_seconds)


def _access_log(settings: RouterSettings, counters: Counters) -> AccessLog | None:
    if settings.access_log is None:
        return None
    return AccessLog(
        settings.access_log,
        seconds=settings.access_log_seconds,
        max_bytes=int(settings.access_log_bytes),
        max_files=settings.access_log_files,
        counters=counters,
    )


def _served(
    model: LoadedModel,
    thread: EngineThread,
    nodes: CacheNodes,
    counters: Counters,
    profile: ModelProfile,
    model_gate: ModelGate,
    forgetting: Forgetting,
    settings: RouterSettings,
    recorder: Recorder | None,
    meter: RouterMeter,
) -> ServedModel:
    engine, gate = model.engine, model_gate.held
    anchors = AnchorPools(int(settings.anchor_bytes))
    contexts = ContextCache()
    pace, prefill = Pace(), Pace()
    usage = NamespaceUsage(counters, Named(settings.metrics_namespaces), meter)
    refusals = Refusals()
    slots, loads = blend_slots(settings, counters), load_slots(settings, counters)
    meter.lanes += [slots, loads]
    held = HeldChunks(int(settings.held_bytes))
    fetcher = Fetcher(
        nodes,
        model.fingerprint,
        counters,
        profile,
        held,
        forget_deadline=settings.stat_deadline,
        fetch_deadline=settings.fetch_deadline,
        concurrency=settings.fetch_concurrency,
        meter=meter.codec,
    )
    loader = HeadLoader(engine, fetcher, slots=loads, fetch_deadline=settings.fetch_deadline)
    meter.paces[model.name] = estimates = Estimates(len(engine.traits.layout.layers), thread, prefill)

    def tenant(namespace: Namespace) -> Tenant:
        deadline = settings.stat_deadline
        planner = Planner(namespace, model.fingerprint, settings.chunk_tokens)
        tally = usage.of(namespace.name)
        computer = VariantComputer(
            engine, planner, attention_sums=settings.attention_sums, contexts=contexts, prefill=prefill
        )
        storer = Storer(
            nodes,
            planner,
            profile,
            model.parts,
            refusals,
            forgetting,
            tally,
            deadline=settings.put_deadline,
            ttl=settings.default_ttl,
        )
        starter = Starter(
            engine,
            thread,
            gate,
            anchors.of(namespace.name),
            pace,
            pipeline=settings.pipeline,
            balance=settings.balance,
        )
        blender = Blender(
            engine,
            starter,
            planner,
            Lookup(nodes, planner, profile, deadline=deadline),
            Finder(nodes, planner, deadline=deadline),
            fetcher,
            gate,
            tally,
            prefill,
            slots=slots,
            fetch_deadline=settings.fetch_deadline,
        )
        head = wire.shared_prefix(None, model)
        finder = HeadFinder(nodes, planner, profile, head, chunk_tokens=settings.chunk_tokens, deadline=deadline)
        tokenise = None if model.tokenizer is None else model.tokenise
        return Tenant(
            planner,
            Offers(blender, finder, loader, gate, estimates, tally),
            finder,
            Precomputer(computer, thread, planner, storer, nodes, counters, stat_deadline=deadline),
            storer,
            WarmUps(settings.warm_up_passages, tokenise, lambda: gate.blends),
            KnownPrefixes(head),
            Explainer(nodes, planner, model.parts, model.text, gate, refusals, deadline=deadline),
            RequestLog(settings.requests_kept, int(settings.requests_bytes), settings.requests_seconds, time.time),
        )

    background = Background(
        engine,
        thread,
        nodes,
        counters,
        forgetting,
        stat_deadline=settings.stat_deadline,
        queue_length=settings.background_queue,
        pair_bytes=int(settings.pair_bytes),
    )
    taker = Taker(
        engine,
        thread,
        estimates,
        counters,
        capacity_bytes=int(settings.save_bytes),
        deadline=settings.put_deadline,
    )
    auditor = Auditor(engine, thread, gate, counters, share=settings.audit_share, meter=meter, chance=random.random)

    def forget(namespace: str) -> None:
        anchors.forget(namespace)
        contexts.forget(namespace)
        usage.forget(namespace)
        refusals.forget(namespace)

    tenants = Tenants(tenant, master_secret(settings), settings.max_namespaces, forget)
    return ServedModel(
        model,
        tenants,
        background,
        auditor,
        profile,
        gate,
        model_gate.sharing,
        held,
        usage,
        recorder,
        taker,
        (slots, loads),
    )
