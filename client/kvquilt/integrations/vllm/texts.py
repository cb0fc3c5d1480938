"""Documents that a request names by their texts: where they are in its prompt."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kvquilt.integrations.vllm.counting import Tally
from kvquilt.integrations.vllm.identity import local_folder
from kvquilt.worker import boundaries
from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.types import TokenIds
from kvquilt_router.engine.chat import tokenise

_CHARACTERS_PER_TOKEN = 64
"""Texts with more characters than so many for each token of the prompt are not in it."""


class Texts:
    """The model's tokenizer, loaded in the background.

    Args:
        folder: of the model, or its name in the local Hugging Face cache.
        tally: warns.
    """

    def __init__(self, folder: Path, tally: Tally) -> None:
        self._tokenizer: Any = None
        self._reason = "tokenizer_not_loaded_yet"
        threading.Thread(target=self._load, args=(folder, tally), name="kvquilt-tokenizer", daemon=True).start()

    def boundaries(self, prompt: TokenIds, documents: Sequence[str], prefix_tokens: int) -> tuple[int, tuple[int, ...]]:
        """`kvquilt.worker.boundaries` of texts.

        Raises:
            BadRequestError: see there; no tokenizer (`tokenizer_not_loaded_yet`, `tokenizer_unknown`).
        """
        if self._tokenizer is None:
            raise BadRequestError("expected documents as lengths: there is no tokenizer for texts", reason=self._reason)
        if sum(map(len, documents)) > _CHARACTERS_PER_TOKEN * len(prompt):
            raise BadRequestError(
                f"expected documents that are in the prompt; got far more text than its {len(prompt)} tokens have",
                reason="document_not_found",
            )
        return boundaries(prompt, [tokenise(self._tokenizer, text) for text in documents], prefix_tokens)

    def _load(self, folder: Path, tally: Tally) -> None:
        try:
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(local_folder(folder), local_files_only=True)
        except Exception as error:  # noqa: BLE001  # the thread's outermost place: whatever a model's folder has
            self._reason = "tokenizer_unknown"
            tally.warn_once(f"documents can be given as lengths only, the model's tokenizer cannot be loaded: {error}")
