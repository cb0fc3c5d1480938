"""What the index asks its table in more than a line. All that is put into these texts are constants."""

from kvquilt_cache_node.store.rows import COLUMNS

_USERS = "FROM objects AS user WHERE user.kind = 'object' AND user.form = objects.form"
_GATES = "FROM objects AS gate WHERE gate.kind = 'gate' AND gate.form = objects.form"
_KEPT = f"kind <> 'object' AND EXISTS (SELECT 1 {_USERS})"

VICTIMS = tuple(
    f"SELECT key, stored_bytes FROM objects WHERE {which} ORDER BY last_used, key"  # noqa: S608
    for which in (f"NOT ({_KEPT})", _KEPT)
)
"""Who goes to make room: profiles in use, and their gates, only when every object has to go."""

PROFILES = (
    f"SELECT form, model_fingerprint, stored_bytes, (SELECT count(*) {_USERS}), (SELECT count(*) {_GATES}) "  # noqa: S608
    "FROM objects WHERE kind = 'profile' ORDER BY last_used DESC, key"
)
GATES = (
    "SELECT lower(hex(key)), model_fingerprint, form, stored_bytes, created FROM objects "
    "WHERE kind = 'gate' AND form = ? AND model_fingerprint = ? ORDER BY created DESC, key"
)
VARIANTS = (
    f"SELECT {COLUMNS} FROM objects WHERE chunk_key = ? AND prefix_digest = ? AND model_fingerprint = ? "  # noqa: S608
    "ORDER BY last_used DESC, key LIMIT ?"
)
MATCHES = """
SELECT chunk_key, offset, tokens FROM fingerprints WHERE fingerprint = ? AND EXISTS (
  SELECT 1 FROM objects WHERE objects.chunk_key = fingerprints.chunk_key AND model_fingerprint = ?)
ORDER BY chunk_key, offset LIMIT ?
"""

UNHELD = """
SELECT key FROM objects WHERE kind = 'object' AND chunk_key = (SELECT chunk_key FROM objects WHERE key = ?)
AND NOT EXISTS (
  SELECT 1 FROM documents JOIN objects AS held ON held.key = documents.key WHERE held.chunk_key = objects.chunk_key)
"""
"""Objects of the same text as an object's, if no document holds any object of it."""
