"""What was measured of the demo model before kvquilt shipped: its codec profile, two gates, and under which conditions.

`make demo-profile` makes the files; docs/decisions/0042-measured-before.md says why they ship.
"""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import msgspec

from kvquilt_codec.errors import IntegrityError, NotFoundError
from kvquilt_codec.gate import Gate
from kvquilt_codec.gate import file as gate_file
from kvquilt_codec.profile import file
from kvquilt_router.profiles import check_model, shipped_path, write_whole

FOLDER = Path(str(files("kvquilt.demo"))) / "measured"
PROFILE = "smollm2.safetensors"
"""The codec profile. Beside it (`gate_file.beside`) is the gate that holds for texts of all kinds that ship."""
PASSAGES_GATE = "passages.gate.json"
"""The gate that was measured on encyclopaedia passages, as the demo's are; none of the demo's is among them."""
CONDITIONS = "conditions.json"


class Conditions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the files were made.

    Attributes:
        command: that makes them.
        cpu: by name.
        threads: of torch.
        torch: its version.
        transformers: its version.
    """

    command: str
    cpu: str
    threads: int
    torch: str
    transformers: str


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredBefore:
    """The files, as they were read.

    Attributes:
        folder: that they are in.
        profile: of the codec.
        every_kind: the gate for texts of all kinds.
        passages: the gate for the demo's passages.
        conditions: how they were made.
    """

    folder: Path
    profile: bytes
    every_kind: Gate
    passages: Gate
    conditions: Conditions

    @property
    def words(self) -> str:
        """How they were measured, in a sentence."""
        how = self.conditions
        return (
            f"measured before, with `{how.command}` ({how.cpu}, {how.threads} threads, torch {how.torch}); "
            f"the gate on {self.passages.texts}"
        )

    def check(self, model_fingerprint: str) -> None:
        """Refuse what does not belong together, or is of another model.

        Raises:
            FingerprintMismatchError: another version of a library may have converted the demo model into another one.
        """
        check_model(file.load(self.profile), model_fingerprint)
        for gate in (self.every_kind, self.passages):
            gate_file.check(gate, model_fingerprint, file.digest(self.profile))

    def keep(self) -> None:
        """Let the routers of this machine find profile and gate for texts of all kinds: `router.profile=auto`."""
        path = shipped_path(file.load(self.profile).model_fingerprint)
        gate = gate_file.beside(self.folder / PROFILE).read_bytes()
        # The gate first: a router that starts in between finds neither, and never a profile without its gate.
        for target, data in ((gate_file.beside(path), gate), (path, self.profile)):
            if not target.is_file() or target.read_bytes() != data:
                write_whole(target, data)


def read(folder: Path = FOLDER) -> MeasuredBefore:
    """The files that ship.

    Raises:
        NotFoundError: they do not: this version was not measured.
        IntegrityError: one of them is missing or damaged.
    """
    if not folder.is_dir():
        raise NotFoundError(f"expected what was measured in {folder}; there is no such folder: `make demo-profile`")
    profile = folder / PROFILE
    try:
        data = profile.read_bytes()
        every_kind = gate_file.load(gate_file.beside(profile).read_bytes())
        passages = gate_file.load((folder / PASSAGES_GATE).read_bytes())
        conditions = msgspec.json.decode((folder / CONDITIONS).read_bytes(), type=Conditions)
    except (OSError, msgspec.MsgspecError) as error:
        raise IntegrityError(f"expected what was measured in {folder}; got {error}: install kvquilt anew") from None
    file.load(data)
    return MeasuredBefore(folder, data, every_kind, passages, conditions)
