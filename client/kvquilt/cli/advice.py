"""What each cause of a miss means in a sentence, and what to do about it."""

ADVICE: dict[str, tuple[str, str]] = {
    "evicted": ("left the store to make room", "raise node.capacity, or see which namespace fills the store"),
    "expired": ("left the store at the end of its time to live", "store it for longer, or prefetch it again"),
    "forgotten": ("was forgotten", "prefetch it again if that was not meant"),
    "lost": (
        "had a row in the index, but its bytes were gone",
        "see the node's medium; kvquilt repair checks it",
    ),
    "damaged": ("was damaged, and was not served", "see the node's medium; it was dropped and can be stored again"),
    "queued": ("waited to be stored because of an earlier request", "nothing; prefetch what is asked for at once"),
    "not_kept": ("was computed before, but could not be stored", "see the reason"),
    "other_prefix": (
        "is stored after another shared prefix",
        "give the same shared prefix in both places",
    ),
    "other_form": ("is stored in another form than this level reads", "ask at the level that it was prefetched at"),
    "other_context": ("is stored, but after text that makes it useless here", "prefetch it as a shared prefix"),
    "other_model": ("is stored for another model", "prefetch it with this model; compare the parts that differ"),
    "other_namespace": ("is stored in another namespace of yours", "ask in that namespace, or mark the text public"),
    "edited": ("differs from what is stored", "prefetch the new text, or let the router store it (router.background)"),
    "normalised": (
        "differs from what is stored only in white space, case or Unicode form",
        "normalise text in the same way before it is prefetched and before it is asked for",
    ),
    "slower_than_computing": (
        "would have come later than the worker computes it, by what was measured lately",
        "nothing, or a faster store or level; `kvquilt verify --engine-url` measures it",
    ),
    "cut_elsewhere": ("is stored as a part of a text that is cut elsewhere", "pass documents as they were prefetched"),
    "never_stored": ("was never stored", "prefetch it, or let the router store what it misses (router.background)"),
    "undetermined": ("was not stored, and the nodes could not say why", "ask again when they answer"),
    "gate_closed": ("is stored, but the gate does not let it be used in this context", "raise max_kl, or calibrate"),
    "no_nodes": ("could not be looked up: there is no cache node", "see router.nodes"),
    "node_unavailable": ("is on a node that could not be reached", "see the node, and kvquilt status"),
    "lookup_deadline": ("was not looked up in time", "see the node's load, or raise router.stat_deadline"),
    "fetch_deadline": ("did not come in time", "see the node's load, or raise router.fetch_deadline"),
    "fingerprint_mismatch": ("turned out to be of another model", "prefetch it with this model"),
    "profile_missing": ("needs a codec profile that is not at hand", "kvquilt profile put FILE"),
    "profile_damaged": ("needs a codec profile that the node had damaged", "kvquilt profile put FILE"),
    "node_busy": ("is on a node that was at a limit", "see node.security and the number of nodes"),
    "node_refused": ("is on a node that does not let the router in", "see router.node_credentials"),
    "node_error": ("met an error of the node", "see the node's log"),
}
"""By cause."""
