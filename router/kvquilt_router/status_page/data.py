"""What the status page shows, as JSON: what the caller may know, and no more."""

import asyncio
import time
from collections import OrderedDict
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from kvquilt_codec.types import TokenIds
from kvquilt_proto.v1 import router_pb2 as pb
from kvquilt_router.engine import LoadedModel
from kvquilt_router.overview import Overview
from kvquilt_rpc.callers import Identity

FRESH_SECONDS = 1.0
"""Who asks again so soon gets the same state: nodes are asked at most once a second for each caller."""
CALLERS_KEPT = 64
TEXT_TOKENS = 64
"""Tokens at the beginning of a patch whose text is shown."""
TEXT_PATCHES = 512


class PageData:
    """Makes the page's data.

    Args:
        overview: tells what there is.
        requests: how many are listed.
        text: whether text of prompts is shown.
    """

    def __init__(self, overview: Overview, *, requests: int, text: bool) -> None:
        self._overview = overview
        self._requests = requests
        self._text = text
        self._states: OrderedDict[Identity, tuple[float, asyncio.Task[dict[str, Any]]]] = OrderedDict()

    async def get(self, identity: Identity, request_id: str = "") -> dict[str, Any]:
        """All that the page shows to a caller.

        Args:
            identity: who asks.
            request_id: of the request that is shown as a quilt; empty: none.

        Raises:
            NotFoundError: there is no such request, or none that the caller may see.
        """
        data = {
            "unix_seconds": time.time(),
            "identity": "" if identity.anonymous else identity.name,
            "shows_text": self._text,
            "status": await self._status(identity),
            "requests": _plain(self._overview.requests(identity, limit=self._requests))["requests"],
        }
        if request_id:
            data["request"] = await self._request(identity, request_id)
        return data

    async def _status(self, identity: Identity) -> dict[str, Any]:
        now = time.monotonic()
        known = self._states.get(identity)
        if known is None or now - known[0] > FRESH_SECONDS:
            known = self._states[identity] = (now, asyncio.create_task(self._asked(identity)))
            while len(self._states) > CALLERS_KEPT:
                self._states.popitem(last=False)
        return await asyncio.shield(known[1])

    async def _asked(self, identity: Identity) -> dict[str, Any]:
        return _state(await self._overview.status(identity))

    async def _request(self, identity: Identity, request_id: str) -> dict[str, Any]:
        (message,) = self._overview.requests(identity, request_id).requests
        shown = _plain(message)
        if self._text and not message.patches_merged:
            served, _, record = self._overview.request(identity, request_id)
            runs = [(patch.begin, patch.begin + min(patch.tokens, TEXT_TOKENS)) for patch in message.patches]
            texts = await asyncio.to_thread(_texts, served.loaded, record.token_ids, runs[:TEXT_PATCHES])
            for patch, text in zip(shown["patches"], texts, strict=False):
                patch["text"] = text
        return shown


def _texts(model: LoadedModel, tokens: TokenIds, runs: list[tuple[int, int]]) -> list[str]:
    return [model.text(tokens[begin:end]) for begin, end in runs]


def _state(status: pb.GetStatusResponse) -> dict[str, Any]:
    """A router's state without what is too much for a page: layouts, and each point of a gate."""
    models = [
        {
            "name": model.name,
            "model_fingerprint": model.model_fingerprint,
            "architecture": model.architecture,
            "gate": {
                "missing_reason": model.gate.missing_reason,
                "points": len(model.gate.points),
                "withdrawn": sum(point.withdrawn for point in model.gate.points),
                "audits": sum(point.audits for point in model.gate.points),
                "audits_exceeded": sum(point.audits_exceeded for point in model.gate.points),
            },
        }
        for model in status.models
    ]
    return {
        "version": status.version,
        "models": models,
        "default_level": status.default_level,
        "default_max_kl": status.default_max_kl,
        "ungated": status.ungated,
        "nodes": [_plain(node) for node in status.nodes],
        "queues": [_plain(queue) for queue in status.queues],
        "usage": {own.namespace: dict(own.counters) for own in status.usage},
    }


def _plain(message: Message) -> dict[str, Any]:
    """A message as JSON types, by the names of the protocol; what is unset of optional fields is left out."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
