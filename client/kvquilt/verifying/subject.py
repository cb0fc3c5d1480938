"""What is verified, and what checks share: clients, documents of their own, what was learned so far."""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from kvquilt.aio import AsyncClient
from kvquilt.checks import SkippedError
from kvquilt.errors import BadRequestError, KvquiltError
from kvquilt.states import ModelInfo, Status
from kvquilt.types import BlendedKV, Document, PrefetchProgress
from kvquilt.verifying.types import Timing
from kvquilt_codec.lifetime import check_ttl
from kvquilt_codec.types import TokenIds
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.security import Credentials

if TYPE_CHECKING:
    from kvquilt.verifying.timing import Measured

CORPUS = "kvquilt-verify"
"""One name for all runs: a router remembers a number of corpora."""
QUESTION = (40, 41, 42, 43)
MAX_EXACT_TOKENS = 2048
"""A longer document begins anew in the middle, so that not all of it is in its exact context."""
_TOKEN_IDS = range(32, 256)
"""Ids that every vocabulary has. Random text of them was never stored before."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to verify.

    Attributes:
        tokens: of the documents of a prompt whose time is measured.
        repeats: prompts of each kind whose time is measured; 0 measures none.
        deadline: seconds a call may take.
        ttl: seconds after which what a run stored is gone, should the run be killed.
        model: name or fingerprint; may be empty where the router serves one model.
        restart_command: a shell command that restarts router and nodes; empty: none.
        restart_seconds: until they must answer again.
        engine_url: OpenAI-compatible server of the engine; empty: none.

    Raises:
        BadRequestError: numbers that cannot be.
    """

    tokens: int = 1024
    repeats: int = 3
    deadline: float = 60.0
    ttl: float = 900.0
    model: str = ""
    restart_command: str = ""
    restart_seconds: float = 300.0
    engine_url: str = ""

    def __post_init__(self) -> None:
        check_ttl(self.ttl)
        if not 64 <= self.tokens <= MAX_EXACT_TOKENS or not 0 <= self.repeats <= 100:
            raise BadRequestError(
                f"expected 64..{MAX_EXACT_TOKENS} tokens and 0..100 repeats; got {self.tokens} and {self.repeats}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """An answer of a blend, and the seconds until all of it had come."""

    kv: BlendedKV
    seconds: float


@dataclass(slots=True, eq=False)
class Subject:
    """A router as checks see it.

    Attributes:
        target: the router's address.
        credentials: as whom it is called.
        client: calls it so.
        options: see there.
        other: calls it as somebody else, with `other_credentials`; `None`: nobody else is known.
        nodes: its cache nodes, if they were named; called with `node_credentials`.
        status: as it was last; set once it has answered.
        probe: the document that most checks are about, once it is stored.
        computed: its KV as the router computed it before it was stored.
        loaded: its KV as it was loaded first.
        timed: every time that was measured.
        timing: what follows from them.
        documents: ids of what was stored, all to be forgotten.
    """

    target: str
    credentials: Credentials
    client: AsyncClient
    options: Options
    other_credentials: Credentials | None = None
    other: AsyncClient | None = None
    nodes: Sequence[NodeClient] = ()
    node_credentials: Credentials = field(default_factory=Credentials)
    status: Status | None = None
    probe: TokenIds | None = None
    computed: BlendedKV | None = None
    loaded: BlendedKV | None = None
    timed: "Measured | None" = None
    timing: Timing | None = None
    documents: dict[str, TokenIds] = field(default_factory=dict)
    _run: str = field(default_factory=lambda: secrets.token_hex(8))
    _random: np.random.Generator = field(default_factory=np.random.default_rng)

    @property
    def known(self) -> Status:
        """The router's state.

        Raises:
            SkippedError: it did not answer.
        """
        if self.status is None:
            raise SkippedError("the router does not answer")
        return self.status

    @property
    def model(self) -> ModelInfo:
        """The model that is asked for.

        Raises:
            BadRequestError: none of this name, or several and no name.
        """
        models, wanted = self.known.models, self.options.model
        chosen = [model for model in models if not wanted or wanted in (model.name, model.fingerprint)]
        if len(chosen) != 1:
            names = ", ".join(model.name for model in models)
            raise BadRequestError(f"expected the name of one of the router's models ({names}); got {wanted!r}")
        return chosen[0]

    @property
    def stored(self) -> TokenIds:
        """The document that was stored and found.

        Raises:
            SkippedError: none was.
        """
        if self.loaded is None or self.probe is None:
            raise SkippedError("nothing was stored and found, see above")
        return self.probe

    def text(self, tokens: int) -> TokenIds:
        """Random text that nobody has ever stored, of tokens that every model has."""
        return self._random.integers(_TOKEN_IDS.start, _TOKEN_IDS.stop, tokens).astype(np.uint32)

    def tokens(self, wanted: int) -> int:
        """So many tokens of documents, or as many as the model's context has room for."""
        return min(wanted, self.model.max_context_tokens - len(QUESTION) - 1)

    async def store(
        self, name: str, text: TokenIds, *, level: str | None = None, exact: bool = True
    ) -> PrefetchProgress:
        """Prefetch a document of this run, with a TTL.

        Args:
            name: within the run.
            text: of the document.
            level: codec level; `None`: the router's.
            exact: compute it after nothing, so that it is in its exact context where a prompt begins with it; else as
                the router computes documents.
        """
        document = f"kvquilt-verify/{self._run}/{name}"
        self.documents[document] = text  # before the call: it may be cut short
        ids = text.tolist()
        # A document is never computed after itself, so as its own warm-up passage it is computed after nothing.
        results = self.client.prefetch(
            [Document(document, ids)],
            shared_prefix=[],
            level=level,
            corpus=CORPUS if exact else "",
            warm_up=[ids[:160]] if exact else (),
            ttl=self.options.ttl,
            model=self.options.model,
            deadline=self.options.deadline,
        )
        (result,) = [result async for result in results]
        return result

    async def blend(self, *texts: TokenIds, level: str | None = None, client: AsyncClient | None = None) -> Asked:
        """KV of a prompt of documents, without template; leaves nothing behind."""
        started = time.perf_counter()
        kv = await (client or self.client).blend(
            [*(text.tolist() for text in texts), QUESTION],
            shared_prefix=[],
            level=level,
            transient=True,
            model=self.options.model,
            deadline=self.options.deadline,
        )
        return Asked(kv, time.perf_counter() - started)

    async def misses(self, *texts: TokenIds, level: str | None = None, client: AsyncClient | None = None) -> list[str]:
        """Why each chunk of a prompt would be missed; an empty reason is a hit."""
        plan = await (client or self.client).plan(
            [*(text.tolist() for text in texts), QUESTION],
            shared_prefix=[],
            level=level,
            model=self.options.model,
            deadline=self.options.deadline,
        )
        return [chunk.miss_reason for chunk in plan.chunks]

    async def clean(self) -> Mapping[str, str]:
        """Forget all that was stored; what could not be, by document, and why."""
        left: dict[str, str] = {}
        for document in list(self.documents):
            try:
                await self.client.forget(document, deadline=self.options.deadline)
            except KvquiltError as error:
                left[document] = str(error)
        return left


def namespace_of(credentials: Credentials, status: Status) -> str:
    """The namespace that a caller acts in.

    Raises:
        SkippedError: it has several and named none.
    """
    known = list(status.usage)
    if credentials.namespace or len(known) == 1:
        return credentials.namespace or known[0]
    raise SkippedError(
        "the caller has several namespaces, or none yet", "name one: --set client.credentials.namespace=NAME"
    )
