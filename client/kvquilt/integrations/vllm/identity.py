"""Who the model is that vLLM runs, and whether the router serves the same.

KV bytes fit only the very model that made them, so every call names the model by its fingerprint, which covers weights,
configuration, RoPE, type and tokenizer. It is computed from the model's folder, unless the operator gives it.
"""

import threading
from pathlib import Path

from kvquilt.integrations.vllm.counting import Tally
from kvquilt.sync import Client
from kvquilt_codec.errors import KvquiltError, NotFoundError
from kvquilt_router.engine.folder import folder_fingerprint
from kvquilt_rpc.security import Credentials

_MISMATCH = ("unknown_model", "fingerprint_mismatch")
"""Reasons of a router that does not serve the model."""


class Identity:
    """The model's fingerprint, as soon as it is known.

    Args:
        given: the fingerprint, if the operator set it; else it is computed, in the background.
        folder: of the model, or its name in the local Hugging Face cache.
        data_type: that vLLM computes in.
        target: the router.
        credentials: as whom to call it.
        tally: warns.
    """

    def __init__(
        self, given: str, folder: Path, data_type: str, target: str, credentials: Credentials, tally: Tally
    ) -> None:
        self.fingerprint = given
        self.reason = "" if given else "fingerprint_not_computed_yet"
        self._data_type = data_type
        self._target = target
        self._credentials = credentials
        self._explaining: threading.Thread | None = None
        if not given:
            threading.Thread(target=self._compute, args=(folder, tally), name="kvquilt-identity", daemon=True).start()

    def explain(self, reason: str, tally: Tally) -> None:
        """Say, once and in the background, which models the router has, if it refused ours."""
        if reason not in _MISMATCH or self._explaining is not None:
            return
        self._explaining = threading.Thread(target=self._explain, args=(tally,), name="kvquilt-models", daemon=True)
        self._explaining.start()

    def _compute(self, folder: Path, tally: Tally) -> None:
        try:
            self.fingerprint = folder_fingerprint(local_folder(folder), self._data_type)
            self.reason = ""
        except KvquiltError as error:
            self.reason = "fingerprint_unknown"
            tally.warn_once(f"off: {error}. Or set model_fingerprint in kv_connector_extra_config")
        except Exception as error:  # noqa: BLE001  # the thread's outermost place
            self.reason = "fingerprint_unknown"
            tally.fault("identity", error)

    def _explain(self, tally: Tally) -> None:
        try:
            with Client(self._target, self._credentials) as client:
                served = client.models()
        except KvquiltError as error:
            tally.warn_once(str(error))
            return
        names = "; ".join(f"{m.name} ({m.layout.data_type.value}, {m.fingerprint})" for m in served) or "none"
        tally.warn_once(
            f"expected the router at {self._target} to serve the model that vLLM runs ({self._data_type}, "
            f"{self.fingerprint}); got {names}. Start it with the same folder and --set "
            f"router.dtype={self._data_type}. Until then every request is computed"
        )


def local_folder(folder: Path) -> Path:
    """The folder of a model that is given by its name in the local Hugging Face cache."""
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(folder), local_files_only=True))
    except (OSError, ValueError) as error:
        raise NotFoundError(f"expected a model's folder; got {folder}: {error}") from None
