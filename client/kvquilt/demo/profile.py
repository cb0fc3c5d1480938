"""The demo model's codec profile: made on first use, and kept in the cache of this machine."""

from collections.abc import Callable, Sequence
from pathlib import Path

from kvquilt_codec.errors import IntegrityError, NotFoundError
from kvquilt_codec.profile import file
from kvquilt_router.calibration import Progress, Text, calibrate
from kvquilt_router.calibration.corpus import shipped_texts
from kvquilt_router.engine import LoadedModel, load_model
from kvquilt_router.engine.smollm2 import NAME
from kvquilt_router.profiles import AUTO, cached_path, read_profile, write_whole


def profile_setting(chosen: str, model: str, announce: Callable[[], None], progress: Progress) -> str:
    """Value of `router.profile` for the demo: "auto" becomes the demo model's profile, made if there is none yet."""
    if chosen != AUTO or model != NAME:
        return chosen
    return str(made_once(load_model(model), shipped_texts, announce, progress))


def made_once(
    model: LoadedModel, texts: Callable[[], Sequence[Text]], announce: Callable[[], None], progress: Progress
) -> Path:
    """The cached profile of a model; takes minutes where there is none, and where there is one of another format.

    Interrupted, it leaves nothing behind: the next call begins anew.

    Args:
        model: with a tokenizer.
        texts: to learn from.
        announce: called before the work begins, if there is any.
        progress: told of every stage of it.
    """
    path = cached_path(model.fingerprint)
    try:
        read_profile(path, model.fingerprint)
    except (NotFoundError, IntegrityError):
        announce()
        write_whole(path, file.dump(calibrate(model, texts(), progress=progress)))
    return path
