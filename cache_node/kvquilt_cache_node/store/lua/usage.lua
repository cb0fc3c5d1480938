-- Objects, bytes of everything, bytes that are reserved, bytes that are pinned, keys whose bytes are to be deleted.
return { sum('objects'), sum('used'), sum('reserved'), sum('pinned'), call('ZCARD', GONE) }
