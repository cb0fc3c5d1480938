"""What tests of levels and profiles share: a document, nodes that come and go, and calls of them."""

import asyncio
import contextlib
import socket
from dataclasses import replace

import numpy as np

from kvquilt import Document
from kvquilt_cache_node.node import running_node
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_codec.profile import file
from kvquilt_router.calibration import Text, calibrate
from kvquilt_rpc.node_client import NodeClient
from tests.router.test_calibration_tiny import Words, numbers
from tests.stack import in_thread

DOCUMENT = Document("one", np.random.default_rng(1).integers(3, 400, 300).tolist())
QUESTION = [5, 6, 7]
SEGMENTS = [DOCUMENT.content, QUESTION]
DEADLINE = 20.0


@contextlib.contextmanager
def node_at(port, folder, store="file"):
    settings = NodeSettings(port=port, path=folder, store=store, fsync=False, drain_seconds=5)
    with in_thread(lambda: running_node(settings)) as address:
        yield address


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def on_node(address, call):
    async def called():
        node = NodeClient(address)
        try:
            return await call(node)
        finally:
            await node.close()

    return asyncio.run(called())


def calibrated(model):
    """The file of a tiny model's profile, from texts of numbers."""
    texts = [Text(f"text {seed}", numbers(seed, 150)) for seed in range(6)]
    profile = calibrate(replace(model, tokenizer=Words()), texts, step=0.2, history=2, quality_layers=3)
    return file.dump(profile)


def put_profile(address, data):
    fingerprint = file.load(data).model_fingerprint
    digest = file.digest(data)
    on_node(address, lambda node: node.profiles.put(data, digest, fingerprint, deadline=DEADLINE))
    return digest


def reasons(kv):
    return [chunk.miss_reason for chunk in kv.report.chunks]


def blended(client, level, **options):
    kv = client.blend(SEGMENTS, policy="none", level=level, **options)
    return kv, np.concatenate([kv.layers[i].keys[:300].ravel() for i in range(4)])
