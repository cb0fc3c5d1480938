"""Loads a model with its tokenizer, and says who it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kvquilt_codec.errors import BadRequestError, NotFoundError
from kvquilt_codec.types import TokenIds
from kvquilt_router.engine import smollm2
from kvquilt_router.engine.chat import ChatFrame, chat_frame, detokenise, tokenise
from kvquilt_router.engine.engine import Engine
from kvquilt_router.engine.fingerprint import fingerprint


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model that is ready to serve.

    Attributes:
        name: what requests call it.
        fingerprint: hex digest; see `kvquilt_codec.identity.ModelFingerprint`.
        parts: digest of each part of the fingerprint by its name; see `ModelFingerprint.parts`.
        architecture: the model's class.
        engine: computes with it.
        tokenizer: the model's own, or `None` where only token ids are used.
        frame: its chat template, or empty strings if it has none.
    """

    name: str
    fingerprint: str
    parts: Mapping[str, str]
    architecture: str
    engine: Engine
    tokenizer: Any | None
    frame: ChatFrame

    def tokenise(self, text: str) -> TokenIds:
        """Token ids of a text, special tokens in it recognised, none added.

        Raises:
            BadRequestError: the model was loaded without a tokenizer.
        """
        if self.tokenizer is None:
            raise BadRequestError("expected token ids: this model has no tokenizer; got text")
        return tokenise(self.tokenizer, text)

    def text(self, token_ids: TokenIds) -> str:
        """The text of token ids, special tokens written out; empty without a tokenizer."""
        return "" if self.tokenizer is None else detokenise(self.tokenizer, token_ids)


def resolve(model: str) -> Path:
    """Folder of a model: a path, or "smollm2" for the demo model (converted into the cache on first use).

    Raises:
        NotFoundError: neither.
    """
    if model == smollm2.NAME:
        return smollm2.ensure()
    path = Path(model).expanduser()
    if not (path / "config.json").is_file():
        raise NotFoundError(
            f"expected a folder with a Hugging Face model (config.json, weights, tokenizer) or {smollm2.NAME!r}; "
            f"got {model!r}"
        )
    return path


def load_model(model: str, *, dtype: str = "float32", device: str = "cpu", name: str = "") -> LoadedModel:
    """Load a model from a local folder; nothing is downloaded and no code of the folder is run.

    Args:
        model: see `resolve`.
        dtype: "float32", "bfloat16", "float16", or "auto" for the type the weights are stored in.
        device: a torch device.
        name: what requests call it; the folder's name by default.

    Raises:
        NotFoundError: no such model.
        UnsupportedModelError: see `Engine`.
    """
    folder = resolve(model)
    loaded, tokenizer = read(folder, dtype)
    if loaded.config._attn_implementation not in ("sdpa", "eager"):
        loaded.set_attn_implementation("sdpa")  # the others take no mask of their own per token
    return prepare(loaded.eval().to(device), tokenizer, name or (model if model == smollm2.NAME else folder.name))


def read(folder: Path, dtype: str) -> tuple[Any, Any]:
    """Model and tokenizer of a folder, as Transformers reads them.

    Raises:
        BadRequestError: Transformers cannot.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto" if dtype == "auto" else getattr(torch, dtype), local_files_only=True
        )
        return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise BadRequestError(f"expected a loadable causal language model in {folder}; got {error}") from None


def prepare(model: Any, tokenizer: Any | None, name: str) -> LoadedModel:
    """Make a Transformers model that is in memory ready to serve.

    Raises:
        UnsupportedModelError: see `Engine`.
    """
    identity = fingerprint(model, tokenizer)
    return LoadedModel(
        name=name,
        fingerprint=identity.digest,
        parts=identity.parts,
        architecture=type(model).__name__,
        engine=Engine(model),
        tokenizer=tokenizer,
        frame=chat_frame(tokenizer),
    )
