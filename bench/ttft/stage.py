"""A router with its node in a process of their own, and what is stored there before anything is measured."""

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kvquilt import Client, Document
from kvquilt.demo.server import serving
from ttft.proof import Proof
from ttft.texts import warm_up_passages
from ttft.types import RagPrompt

CORPUS = "bench-ttft"
ANOTHER = "Question: What is this about?"


@dataclass(frozen=True, slots=True)
class Stage:
    """Where and with what routers run.

    Attributes:
        folder: of the store; outlives a router.
        dtype: that the model computes in.
        threads: of the router's torch.
        proof: profile and gate.
        level: of documents.
        port: of the routers, one after the other: engines keep their address.
    """

    folder: Path
    dtype: str
    threads: int
    proof: Proof
    level: str
    port: int

    @property
    def address(self) -> str:
        """Where the router is, when one runs."""
        return f"127.0.0.1:{self.port}"

    @contextmanager
    def router(self, *, background: bool, gated: bool = True) -> Iterator[str]:
        """A running router on the store; yields its address.

        Args:
            background: store what requests bring.
            gated: with the gate. Without one, chunks are used in their exact context only, and stored in each.
        """
        settings = [
            f"router.port={self.port}",
            f"router.dtype={self.dtype}",
            f"router.threads={self.threads}",
            f"router.background={str(background).lower()}",
            "router.audit_share=0",
            f"router.level={self.level}",
            f"router.profile={self.proof.profile}",
            f"router.gate={self.proof.gate if gated else ''}",
        ]
        with serving(self.folder, settings) as address:
            yield address

    def prefetch(self, router: str, prompts: Sequence[RagPrompt], told: Callable[[], None]) -> None:
        """Store every passage of the prompts, each as a document of its own.

        They are computed after passages that no prompt holds, as those were that the gate was measured on: a corpus's
        own first passages would themselves be warmed up with fewer, in a context that was not measured.
        """
        texts = dict.fromkeys(document for prompt in prompts for document in prompt.documents)
        with Client(router) as client:
            documents = [Document(f"passage/{number}", text) for number, text in enumerate(texts)]
            for done in client.prefetch(documents, corpus=CORPUS, warm_up=warm_up_passages(), level=self.level):
                if done.failed:
                    raise RuntimeError(f"expected {done.document_id} to be stored; it failed: {done.failure_reason}")
                told()

    def remember(self, router: str, prompts: Sequence[RagPrompt], told: Callable[[], None], patience: float) -> None:
        """Have the whole context of every prompt stored as it is there: by asking another question over it once.

        Args:
            router: its address; it works in the background, and has no gate.
            prompts: of which contexts are stored.
            told: called after each.
            patience: seconds that one may take to be stored.
        """
        with Client(router) as client:
            for prompt in prompts:
                segments = [*prompt.documents, prompt.question]
                client.blend([*prompt.documents, ANOTHER], level=self.level, deadline=patience)
                until = time.monotonic() + patience
                while not all(chunk.in_exact_context for chunk in client.plan(segments, level=self.level).chunks):
                    if time.monotonic() > until:
                        raise RuntimeError(f"expected the context to be stored within {patience} s; it was not")
                    time.sleep(0.2)
                told()


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
