"""What a profile depends on beside its model and texts: the code that learns it and codes with it."""

from pathlib import Path

import xxhash

import kvquilt_codec

_CODEC_PARTS = ("joint", "profile", "transform")


def recipe() -> str:
    """Digest (xxh3-64, hex) of the sources of calibration and coding, and of the texts that ship.

    A profile in a cache is made anew when it changes: measured figures are of the code at hand.
    """
    here, codec = Path(__file__).parent, Path(kvquilt_codec.__file__).parent
    digest = xxhash.xxh3_64()
    for folder in (here, *(codec / part for part in _CODEC_PARTS)):
        for path in sorted((*folder.rglob("*.py"), *folder.rglob("*.txt"))):
            digest.update(path.read_bytes())
    return digest.hexdigest()
