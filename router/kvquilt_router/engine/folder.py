"""The fingerprint of a model in a folder, for processes that do not load it with Transformers themselves.

Computed once, by a process of its own, since that reads all weights into memory; then kept in the user's cache under
the names, sizes and times of the folder's files.
"""

import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

from kvquilt_codec.errors import BadRequestError, NotFoundError
from kvquilt_router.engine.smollm2 import cache_dir

_FORMAT = "v1"  # part of the name that a fingerprint is kept under: raise it when it is computed in another way
_TIMEOUT = 3600.0


def folder_fingerprint(folder: Path, data_type: str) -> str:
    """Fingerprint (hex) of the model in a folder when it computes in `data_type`.

    Args:
        folder: with config.json, weights and tokenizer.
        data_type: "float32", "bfloat16" or "float16".

    Raises:
        NotFoundError: no such folder.
        BadRequestError: no model that Transformers can read.
    """
    if not (folder / "config.json").is_file():
        raise NotFoundError(f"expected a folder with a Hugging Face model (config.json, weights); got {folder}")
    kept = _kept_in(folder, data_type)
    try:
        return str(json.loads(kept.read_text())["fingerprint"])
    except (OSError, ValueError, KeyError):
        fingerprint = _compute(folder, data_type)
    kept.parent.mkdir(parents=True, exist_ok=True)
    made = kept.with_suffix(f".{os.getpid()}")
    made.write_text(json.dumps({"folder": str(folder), "data_type": data_type, "fingerprint": fingerprint}))
    made.replace(kept)
    return fingerprint


def _compute(folder: Path, data_type: str) -> str:
    command = [sys.executable, "-m", __name__, str(folder), data_type]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise BadRequestError(
            f"expected to read the weights in {folder} in {_TIMEOUT:.0f} s; it takes longer"
        ) from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BadRequestError(f"expected a model that Transformers can read in {folder}; got {last}")
    return done.stdout.split()[-1]


def _kept_in(folder: Path, data_type: str) -> Path:
    files = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    seen = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in files]
    name = hashlib.sha256(json.dumps([_FORMAT, str(folder.resolve()), data_type, seen]).encode()).hexdigest()
    return cache_dir() / "fingerprints" / f"{name[:32]}.json"


def main() -> None:
    """Print the fingerprint; arguments: folder and type."""
    from kvquilt_router.engine.fingerprint import fingerprint
    from kvquilt_router.engine.model import read

    logging.disable(logging.WARNING)
    model, tokenizer = read(Path(sys.argv[1]), sys.argv[2])
    sys.stdout.write(fingerprint(model, tokenizer).digest + "\n")


if __name__ == "__main__":
    main()
