"""Where a router's gate comes from: a file, by default the one beside the codec profile's."""

import logging
from pathlib import Path

from kvquilt_codec.errors import KvquiltError, NotFoundError
from kvquilt_codec.gate import Gate
from kvquilt_codec.gate.file import beside, check, load
from kvquilt_router.gate.held import HeldGate
from kvquilt_router.profiles import AUTO, cached_path
from kvquilt_router.settings import RouterSettings

log = logging.getLogger(__name__)


def open_gate(settings: RouterSettings, model_fingerprint: str, profile_digest: str) -> HeldGate:
    """The gate that the settings name; without one that holds, chunks are used in their exact context only.

    Raises:
        NotFoundError, IntegrityError, FingerprintMismatchError: a file that is named is not there, is no gate, or is of
            another model or codec profile.
    """
    if settings.ungated:
        log.warning("router.ungated: blends are served that nothing was measured of; for evaluation only")
        return HeldGate(ungated=True, missing_reason="router.ungated is set")
    if not settings.gate:
        return HeldGate(missing_reason="router.gate is empty")
    named = settings.gate != AUTO
    path = Path(settings.gate).expanduser() if named else _beside(settings, model_fingerprint)
    if path is None or not (named or path.is_file()):
        reason = "no gate was measured with this codec profile: `kvquilt calibrate` does"
        log.warning("%s; chunks are used in their exact context only", reason)
        return HeldGate(missing_reason=reason)
    try:
        return HeldGate(_read(path, model_fingerprint, profile_digest))
    except KvquiltError as error:
        if named:
            raise
        log.warning("the gate %s is not used: %s", path, error)
        return HeldGate(missing_reason=str(error))


def _beside(settings: RouterSettings, model_fingerprint: str) -> Path | None:
    if settings.profile == AUTO:
        return beside(cached_path(model_fingerprint))
    path = Path(settings.profile).expanduser()
    return beside(path) if settings.profile and path.is_file() else None


def _read(path: Path, model_fingerprint: str, profile_digest: str) -> Gate:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotFoundError(f"expected a gate file in {path}; got {error}") from None
    gate = load(data)
    check(gate, model_fingerprint, profile_digest)
    return gate
