"""What the index asks its table in more than a line. All that is put into these texts are constants."""

import json

from kvquilt_cache_node.store.rows import COLUMNS
from kvquilt_cache_node.types import Namespaces

_USERS = "FROM objects AS user WHERE user.kind = 'object' AND user.form = objects.form"
_GATES = "FROM objects AS gate WHERE gate.kind = 'gate' AND gate.form = objects.form"
IDLE = (
    f"SELECT key, last_used FROM objects WHERE kind <> 'object' AND NOT EXISTS (SELECT 1 {_USERS}) "  # noqa: S608
    "ORDER BY last_used, key LIMIT 1"
)
"""Of the profiles that no stored object is coded with, and their gates, the one used longest ago."""
OLDEST_USE = "SELECT last_used FROM objects WHERE kind = 'object' ORDER BY last_used LIMIT 1"
ENTRIES = (
    "SELECT key, namespace, stored_bytes, compute_seconds, use_count FROM objects WHERE kind = 'object' "
    "ORDER BY last_used, key"
)
SUMS = "SELECT namespace, count(*), sum(stored_bytes) FROM objects GROUP BY namespace"
LARGEST = "SELECT max(stored_bytes, 1) FROM objects WHERE namespace = ? ORDER BY stored_bytes DESC LIMIT 1"
DROP = "DELETE FROM objects WHERE key = ? RETURNING stored_bytes, compute_seconds, use_count, namespace"

PROFILES = (
    f"SELECT form, model_fingerprint, stored_bytes, (SELECT count(*) {_USERS}), (SELECT count(*) {_GATES}) "  # noqa: S608
    "FROM objects WHERE kind = 'profile' ORDER BY last_used DESC, key"
)
GATES = (
    "SELECT lower(hex(key)), model_fingerprint, form, stored_bytes, created FROM objects "
    "WHERE kind = 'gate' AND form = ? AND model_fingerprint = ? ORDER BY created DESC, key"
)

SEEN = "(? OR namespace IN (SELECT value FROM json_each(?)))"
"""Whether an object is of the namespaces that are asked about; `seen_by` gives the two variables."""


def seen_by(namespaces: Namespaces) -> tuple[bool, str]:
    """What `SEEN` is asked with."""
    return (True, "[]") if namespaces is None else (False, json.dumps(list(namespaces)))


EXISTS = "SELECT 1 FROM objects WHERE key = ?"
IS_SEEN = f"{EXISTS} AND {SEEN}"
VARIANTS = (
    f"SELECT {COLUMNS} FROM objects WHERE chunk_key = ? AND prefix_digest = ? AND model_fingerprint = ? "  # noqa: S608
    f"AND {SEEN} ORDER BY last_used DESC, key LIMIT ?"
)
TEXTS = (
    f"SELECT {COLUMNS} FROM objects WHERE chunk_key = ? AND kind = 'object' "  # noqa: S608
    f"AND {SEEN} ORDER BY last_used DESC, key LIMIT ?"
)
MATCHES = f"""
SELECT chunk_key, offset, tokens FROM fingerprints WHERE fingerprint = ? AND EXISTS (
  SELECT 1 FROM objects WHERE objects.chunk_key = fingerprints.chunk_key AND model_fingerprint = ? AND {SEEN})
ORDER BY chunk_key, offset LIMIT ?
"""  # noqa: S608

UNHELD = """
SELECT key FROM objects WHERE kind = 'object' AND chunk_key = (SELECT chunk_key FROM objects WHERE key = ?)
AND NOT EXISTS (
  SELECT 1 FROM documents JOIN objects AS held ON held.key = documents.key WHERE held.chunk_key = objects.chunk_key)
"""
"""Objects of the same text as an object's, if no document holds any object of it."""

OF_NAMESPACE = "SELECT key FROM objects WHERE namespace = ? LIMIT ?"
