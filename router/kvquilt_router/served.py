"""What a router has for each model that it serves."""

from dataclasses import dataclass

from kvquilt_router.auditing import Auditor
from kvquilt_router.background import Background
from kvquilt_router.engine import LoadedModel
from kvquilt_router.gate.held import HeldGate
from kvquilt_router.gate.sharing import AuditSharing
from kvquilt_router.holding import HeldChunks
from kvquilt_router.profiles import ModelProfile
from kvquilt_router.recording import Recorder
from kvquilt_router.taking import Taker
from kvquilt_router.tenants import Tenants
from kvquilt_router.usage import NamespaceUsage
from kvquilt_rpc.admission import Slots


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A model with what works on it."""

    loaded: LoadedModel
    tenants: Tenants
    background: Background
    auditor: Auditor
    profile: ModelProfile
    gate: HeldGate
    sharing: AuditSharing
    held: HeldChunks
    usage: NamespaceUsage
    recorder: Recorder | None
    taker: Taker
    slots: tuple[Slots, ...]
