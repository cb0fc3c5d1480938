"""HF Transformers in this process, with the integration that users have."""

from typing import Any

import numpy as np

from kvquilt.cli.worker import Answer, Worker
from kvquilt.worker import Extent
from ttft.types import FirstToken, RagPrompt, Shot


class TransformersEngine:
    """See `Engine`.

    Args:
        router: its address.
        dtype: that it computes in.
        threads: of torch.
    """

    name = "transformers"

    def __init__(self, router: str, dtype: str, threads: int) -> None:
        self._worker = Worker("smollm2", router, dtype=dtype, threads=threads)

    def off(self, prompt: RagPrompt) -> Shot:
        answer = self._worker.ask_in_full([*prompt.documents, prompt.question], max_tokens=1)
        return Shot(answer.ttft_s, _first(answer), {"computed": len(prompt.token_ids)})

    def on(self, prompt: RagPrompt, extent: str = "auto", *, save: bool = False, **options: Any) -> Shot:
        asked = {"extent": Extent(extent), **options}
        answer = self._worker.ask([*prompt.documents, prompt.question], max_tokens=1, **asked)
        if save:
            self._worker.save(answer)
        report = answer.filled.report if answer.filled is not None else None
        if report is None:
            reason = answer.filled.fallback_reason if answer.filled is not None else ""
            return Shot(answer.ttft_s, _first(answer), {"computed": len(prompt.token_ids)}, reason)
        kinds = ("exact", "reused", "recomputed", "computed")
        how = f"{report.policy} {report.recompute_ratio:.0%}" if report.tokens_recomputed + report.tokens_reused else ""
        return Shot(answer.ttft_s, _first(answer), {kind: getattr(report, f"tokens_{kind}") for kind in kinds}, how)

    def close(self) -> None:
        self._worker.close()


def _first(answer: Answer) -> FirstToken:
    return FirstToken.of_logits(np.asarray(answer.logits[0].double(), np.float64))
