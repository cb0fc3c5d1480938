"""What a node may do in its bucket, tried with an object of its own name that is deleted afterwards."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore

_CONTENT = b"kvquilt doctor"
_ERRORS = (BaseError, OSError, ValueError)


@dataclass(slots=True)
class ObjectFacts:
    """What was found.

    Attributes:
        refused: what could not be done, of "put", "get", "list" and "delete", and what the service said.
        versioned: the bucket keeps what is deleted or replaced.
        mixes: the service ignores the condition of a read, which a node holds it to, so that two writes may be mixed.
        creates: a put that must create does not replace. Nodes do without.
        left: name of the object that could not be deleted; empty: nothing is left.
    """

    refused: dict[str, str] = field(default_factory=dict)
    versioned: bool = False
    mixes: bool = False
    creates: bool = False
    left: str = ""


async def probed(store: ObjectStore) -> ObjectFacts:
    """Put an object, read it, list it, delete it."""
    found = ObjectFacts()
    name = f"kvquilt-doctor-{secrets.token_hex(8)}"

    async def tried(what: str, work: Callable[[], Awaitable[bool]], wrong: str) -> bool:
        try:
            if await work():
                return True
            found.refused[what] = wrong
        except _ERRORS as error:
            found.refused[what] = " ".join(str(error).split())[:200]
        return False

    async def put() -> bool:
        result = await obstore.put_async(store, name, _CONTENT)
        found.versioned = bool(result.get("version"))
        return True

    async def get() -> bool:
        answer = await obstore.get_async(store, name)
        return bytes(await answer.bytes_async()) == _CONTENT

    async def listed() -> bool:
        page = await asyncio.to_thread(lambda: obstore.list(store, prefix=None, offset=name[:-1]).collect())
        return any(entry["path"] == name for entry in page)

    async def delete() -> bool:
        await obstore.delete_async(store, name)
        try:
            await obstore.head_async(store, name)
        except FileNotFoundError:
            return True
        return False

    if not await tried("put", put, ""):
        return found
    try:
        await tried("get", get, "it came back with other bytes")
        found.mixes = await _served_as_another(store, name)
        found.creates = await _refuses_to_replace(store, name)
        await tried("list", listed, "it is not listed")
    finally:
        if not await tried("delete", delete, "it is there still"):
            found.left = name
    return found


async def _served_as_another(store: ObjectStore, name: str) -> bool:
    try:
        await obstore.get_async(store, name, options={"range": (0, 1), "if_match": '"another"'})
    except _ERRORS:
        return False
    return True


async def _refuses_to_replace(store: ObjectStore, name: str) -> bool:
    try:
        await obstore.put_async(store, name, _CONTENT, mode="create")
    except _ERRORS:
        return True
    return False
