"""What the index asks its table in more than a line. All that is put into these texts are constants."""

from kvquilt_cache_node.store.rows import COLUMNS

_USERS = "FROM objects AS user WHERE user.kind = 'object' AND user.form = objects.form"
_GATES = "FROM objects AS gate WHERE gate.kind = 'gate' AND gate.form = objects.form"
IDLE = (
    f"SELECT key, last_used FROM objects WHERE kind <> 'object' AND NOT EXISTS (SELECT 1 {_USERS}) "  # noqa: S608
    "ORDER BY last_used, key LIMIT 1"
)
"""Of the profiles that no stored object is coded with, and what is kept with them, the one used longest ago."""
OLDEST_USE = "SELECT last_used FROM objects WHERE kind = 'object' ORDER BY last_used LIMIT 1"
ENTRIES = (
    "SELECT key, namespace, stored_bytes, compute_seconds, use_count FROM objects WHERE kind = 'object' "
    "AND key NOT IN (SELECT key FROM stays WHERE pinned IS NOT NULL) ORDER BY last_used, key"
)
"""What a policy chooses among: all objects but the pinned ones."""
ENTRY = "SELECT namespace, stored_bytes, compute_seconds, use_count FROM objects WHERE key = ?"
SUMS = "SELECT namespace, count(*), sum(stored_bytes) FROM objects GROUP BY namespace"
LARGEST = (
    "SELECT max(stored_bytes, 1) FROM objects WHERE namespace = ? AND NOT EXISTS "
    "(SELECT 1 FROM stays WHERE stays.key = objects.key AND pinned IS NOT NULL) ORDER BY stored_bytes DESC LIMIT 1"
)
DROP = "DELETE FROM objects WHERE key = ? RETURNING stored_bytes, compute_seconds, use_count, namespace"

PROFILES = (
    f"SELECT form, model_fingerprint, stored_bytes, (SELECT count(*) {_USERS}), (SELECT count(*) {_GATES}) "  # noqa: S608
    "FROM objects WHERE kind = 'profile' ORDER BY last_used DESC, key"
)
FILES = (
    "SELECT lower(hex(key)), model_fingerprint, form, stored_bytes, created FROM objects "
    "WHERE kind = ? AND form = ? AND model_fingerprint = ? ORDER BY created DESC, key"
)

ALL_NAMESPACES = """
WITH RECURSIVE names(name) AS (SELECT min(namespace) FROM objects
  UNION ALL SELECT (SELECT min(namespace) FROM objects WHERE namespace > name) FROM names WHERE name IS NOT NULL)
SELECT name FROM names WHERE name IS NOT NULL
"""
"""One step in an index for each."""


def among(count: int) -> str:
    """Whether an object is of one of so many namespaces.

    Indexes by which callers of some namespaces look something up begin with the namespace: so what another namespace
    has is the same miss, in the same time, as what nobody has.
    """
    return f"namespace IN ({','.join('?' * count)})"


EXISTS = "SELECT 1 FROM alive WHERE key = ?"
_LIVES = "NOT EXISTS (SELECT 1 FROM stays WHERE stays.key = objects.key AND stays.expires <= age_now())"
"""Whether an object has not expired. As in the view `alive`, which cannot be asked by an index of one's choice."""


def owned(count: int) -> str:
    """Whether there is something of a key. Variables: namespaces, key."""
    return f"SELECT 1 FROM objects INDEXED BY objects_by_owner WHERE {among(count)} AND key = ? AND {_LIVES}"  # noqa: S608


def objects(keys: int, count: int | None) -> str:
    """Objects by key, of so many namespaces or of all (`None`). Variables: namespaces, keys."""
    whose = "objects WHERE" if count is None else f"objects INDEXED BY objects_by_owner WHERE {among(count)} AND"
    return f"SELECT {COLUMNS} FROM {whose} key IN ({','.join('?' * keys)}) AND kind = 'object' AND {_LIVES}"  # noqa: S608


def variants(count: int) -> str:
    """Objects of a chunk. Variables: namespaces, chunk key, digest of the shared prefix, model, limit."""
    return (
        f"SELECT {COLUMNS} FROM objects INDEXED BY objects_by_chunk WHERE {among(count)} AND chunk_key = ? "  # noqa: S608
        f"AND prefix_digest = ? AND model_fingerprint = ? AND {_LIVES} ORDER BY last_used DESC, key LIMIT ?"
    )


def texts(count: int) -> str:
    """Objects of a chunk, whatever preceded it. Variables: namespaces, chunk key, limit."""
    return (
        f"SELECT {COLUMNS} FROM objects INDEXED BY objects_by_chunk WHERE {among(count)} AND chunk_key = ? "  # noqa: S608
        f"AND kind = 'object' AND {_LIVES} ORDER BY last_used DESC, key LIMIT ?"
    )


def matches(count: int) -> str:
    """Chunks that have a fingerprint. Variables: namespaces, fingerprint, model, limit."""
    return (
        f"SELECT chunk_key, offset, tokens FROM fingerprints WHERE {among(count)} AND fingerprint = ? "  # noqa: S608
        "AND EXISTS (SELECT 1 FROM objects WHERE objects.namespace = fingerprints.namespace "
        f"AND objects.chunk_key = fingerprints.chunk_key AND model_fingerprint = ? AND {_LIVES}) "
        "ORDER BY chunk_key, offset LIMIT ?"
    )


UNHELD = """
SELECT key FROM objects WHERE kind = 'object'
AND (namespace, chunk_key) = (SELECT namespace, chunk_key FROM objects WHERE key = ?)
AND NOT EXISTS (
  SELECT 1 FROM documents JOIN objects AS held ON held.key = documents.key
  WHERE held.namespace = objects.namespace AND held.chunk_key = objects.chunk_key)
"""
"""Objects of the same namespace's text as an object's, if no document holds any object of it."""

IS_OF = "SELECT 1 FROM objects WHERE key = ? AND namespace = ?"
OF_NAMESPACE = "SELECT key FROM objects WHERE namespace = ? LIMIT ?"
