"""The log of a server: lines on standard error, as text or JSON, bounded in number, without secrets.

Modules log with `logging.getLogger(__name__)` as everywhere. Here is what a server does with it: `handler` puts the
parts together, `redaction` takes secrets out, `limiting` bounds the lines, `lines` writes them.
"""

from kvquilt_rpc.logs.handler import adopt, logging_to
from kvquilt_rpc.logs.redaction import hide
from kvquilt_rpc.logs.settings import LogSettings

__all__ = ["LogSettings", "adopt", "hide", "logging_to"]
