"""The demo model's profile for benchmarks: made of the shipped texts, and again when the code that makes it changes."""

import subprocess
import sys
from pathlib import Path

import xxhash

import kvquilt_codec
import kvquilt_router.calibration
from kvquilt_router.calibration.corpus import shipped_texts
from kvquilt_router.engine.smollm2 import NAME, cache_dir

_PARTS = ("joint", "profile", "transform")


def state(fingerprint: str) -> str:
    """Digest of what a profile depends on: the model, the texts, and the code that learns and codes."""
    digest = xxhash.xxh3_128(fingerprint.encode())
    for text in shipped_texts():
        digest.update(text.content.encode())
    codec = Path(kvquilt_codec.__file__).parent
    folders = [Path(kvquilt_router.calibration.__file__).parent, *(codec / part for part in _PARTS)]
    for path in (path for folder in folders for path in sorted(folder.rglob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def ensure(fingerprint: str) -> Path:
    """The profile's file; takes minutes the first time, with a bar of progress.

    Raises:
        subprocess.CalledProcessError: calibration failed; it said why.
    """
    path = cache_dir() / "bench" / f"{NAME}-{state(fingerprint)}.profile"
    if not path.is_file():
        command = [sys.executable, "-m", "kvquilt", "calibrate", NAME, "--output", str(path)]
        subprocess.run(command, check=True)  # noqa: S603
    return path
