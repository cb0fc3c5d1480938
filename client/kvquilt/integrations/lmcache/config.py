"""The adapter's parameters as LMCache wants them: a class with `from_dict` and `help`."""

from typing import Any

from lmcache.v1.distributed.l2_adapters.config import L2AdapterConfigBase

from kvquilt.integrations.lmcache.settings import AdapterSettings, described, parsed


class KvquiltL2AdapterConfig(L2AdapterConfigBase):  # type: ignore[misc]
    """Checked `adapter_params`; LMCache finds this class by its name."""

    def __init__(self, settings: AdapterSettings) -> None:
        self.settings = settings

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> "KvquiltL2AdapterConfig":
        """Check parameters.

        Raises:
            BadRequestError: see `settings.parsed`.
        """
        return cls(parsed(d))

    @classmethod
    def help(cls) -> str:
        """All parameters, a line each."""
        return described()
