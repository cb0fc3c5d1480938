"""The demo model's codec profile and blend gate: made on first use, and kept in the cache of this machine."""

from collections.abc import Callable, Sequence
from pathlib import Path

from kvquilt_codec.errors import FingerprintMismatchError, IntegrityError, NotFoundError
from kvquilt_codec.gate import file as gate_file
from kvquilt_codec.joint import JointCoder
from kvquilt_codec.profile import file
from kvquilt_router.calibration import Progress, Text, calibrate, cut
from kvquilt_router.calibration.corpus import shipped_texts
from kvquilt_router.engine import LoadedModel, load_model
from kvquilt_router.engine.smollm2 import NAME
from kvquilt_router.evaluation.types import WARM
from kvquilt_router.gate.measure import Grid, measure_gate
from kvquilt_router.profiles import AUTO, cached_path, read_profile, write_whole

GRID = Grid(
    ways=(("none", 0.0), *(("question-deviation", ratio) for ratio in (0.1, 0.2, 0.3))),
    contexts=(WARM,),
    cases=12,
)
"""What the demo's prompts need, and no more: its passages are computed after others, and it asks at every level."""


def profile_setting(chosen: str, model: str, announce: Callable[[], None], progress: Progress) -> str:
    """Value of `router.profile` for the demo: "auto" becomes the demo model's profile, made if there is none yet."""
    if chosen != AUTO or model != NAME:
        return chosen
    return str(made_once(load_model(model), shipped_texts, announce, progress))


def made_once(
    model: LoadedModel,
    texts: Callable[[], Sequence[Text]],
    announce: Callable[[], None],
    progress: Progress,
    grid: Grid = GRID,
) -> Path:
    """The cached profile of a model, its gate beside it; takes minutes where there is none, or one of another format.

    Interrupted, it leaves nothing half done: a profile that was finished stays, the rest begins anew.

    Args:
        model: with a tokenizer.
        texts: to learn from.
        announce: called before the work begins, if there is any.
        progress: told of every stage of it.
        grid: what the gate measures.
    """
    path = cached_path(model.fingerprint)
    try:
        data = read_profile(path, model.fingerprint)
    except (NotFoundError, IntegrityError):
        announce()
        data = file.dump(calibrate(model, texts(), progress=progress))
        write_whole(path, data)
    if not _gate_is_there(gate_file.beside(path), model.fingerprint, file.digest(data)):
        announce()
        coder = JointCoder(file.load(data), file.digest(data))
        gate = measure_gate(model, coder, cut(texts(), model.tokenise), grid, progress)
        write_whole(gate_file.beside(path), gate_file.dump(gate))
    return path


def _gate_is_there(path: Path, model_fingerprint: str, digest: str) -> bool:
    try:
        gate_file.check(gate_file.load(path.read_bytes()), model_fingerprint, digest)
    except (OSError, IntegrityError, FingerprintMismatchError):
        return False
    return True
