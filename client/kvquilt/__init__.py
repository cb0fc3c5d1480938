"""kvquilt: a context cache for LLM serving. Start with `Client` (or `AsyncClient`) and `Document`."""

from kvquilt.aio import AsyncClient
from kvquilt.documents import read_documents
from kvquilt.errors import KvquiltError
from kvquilt.sync import Client
from kvquilt.types import BlendedKV, BlendReport, Document, ForgetReport, PrefetchProgress, Segment, Status

__all__ = [
    "AsyncClient",
    "BlendReport",
    "BlendedKV",
    "Client",
    "Document",
    "ForgetReport",
    "KvquiltError",
    "PrefetchProgress",
    "Segment",
    "Status",
    "read_documents",
]
