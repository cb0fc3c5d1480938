"""kvquilt: a context cache for LLM serving. Start with `Client` (or `AsyncClient`) and `Document`."""

from kvquilt.aio import AsyncClient
from kvquilt.documents import read_documents
from kvquilt.errors import KvquiltError
from kvquilt.explanations import MissReport
from kvquilt.receipts import ForgetReport, LiftReport, PinReport
from kvquilt.states import Status
from kvquilt.sync import Client
from kvquilt.types import BlendedKV, BlendReport, Document, PrefetchProgress, Public, Segment
from kvquilt_rpc.security import Credentials

__all__ = [
    "AsyncClient",
    "BlendReport",
    "BlendedKV",
    "Client",
    "Credentials",
    "Document",
    "ForgetReport",
    "KvquiltError",
    "LiftReport",
    "MissReport",
    "PinReport",
    "PrefetchProgress",
    "Public",
    "Segment",
    "Status",
    "read_documents",
]
