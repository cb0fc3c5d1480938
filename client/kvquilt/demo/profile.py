"""The demo model's codec profile and blend gate: those that ship, or made on this machine and kept in its cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvquilt.demo import measured_before
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

SHIPPED, MADE, GIVEN = "before", "on this machine", "given"
"""Where and when profile and gate were measured."""

GRID = Grid(
    ways=(("none", 0.0), *(("question-deviation", ratio) for ratio in (0.1, 0.2, 0.3))),
    contexts=(WARM,),
    cases=12,
)
"""What the demo's prompts need, and no more: its passages are computed after others, and it asks at every level."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What the demo's router is told to use.

    Attributes:
        profile: value of `router.profile`.
        gate: value of `router.gate`.
        origin: where and when both were measured: `SHIPPED`, `MADE`, or `GIVEN` for whatever the caller named.
        words: how they were measured, in a sentence; empty if they were given.
    """

    profile: str
    gate: str
    origin: str
    words: str = ""

    @property
    def name(self) -> str:
        """Of the profile's file."""
        return Path(self.profile).name


def proof(chosen: str, model: str, anew: bool, announce: Callable[[str], None], progress: Progress) -> Proof:
    """What the demo runs with: "auto" is the demo model's profile, with the gate for the demo's passages.

    Args:
        chosen: a profile, as in `router.profile`.
        model: by name or folder.
        anew: measure on this machine, rather than take what ships.
        announce: told, in words, before minutes are spent.
        progress: told of every stage of them.
    """
    if chosen != AUTO or model != NAME:
        return Proof(chosen, AUTO, GIVEN)
    loaded = load_model(model)
    shipped = None if anew else shipped_proof(loaded, announce)
    return shipped or made_proof(loaded, shipped_texts, announce, progress)


def shipped_proof(
    model: LoadedModel, announce: Callable[[str], None], folder: Path = measured_before.FOLDER
) -> Proof | None:
    """The files that ship, if they hold for this very model; routers of this machine find them from now on.

    Args:
        model: the demo model, as it was converted here.
        announce: told why they are not used.
        folder: that they are in.
    """
    try:
        before = measured_before.read(folder)
        before.check(model.fingerprint)
    except (IntegrityError, FingerprintMismatchError, NotFoundError) as error:
        announce(f"what was measured before is not used: {error}")
        return None
    before.keep()
    profile, gate = folder / measured_before.PROFILE, folder / measured_before.PASSAGES_GATE
    return Proof(str(profile), str(gate), SHIPPED, before.words)


def made_proof(
    model: LoadedModel,
    texts: Callable[[], Sequence[Text]],
    announce: Callable[[str], None],
    progress: Progress,
    grid: Grid = GRID,
) -> Proof:
    """Profile and gate measured on this machine, now or earlier; arguments as in `made_once`."""
    words = "measuring the demo model on this machine: once, some minutes"
    path = made_once(model, texts, lambda: announce(words), progress, grid)
    gate = gate_file.load(gate_file.beside(path).read_bytes())
    return Proof(str(path), AUTO, MADE, f"measured on this machine; the gate on {gate.texts}")


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
