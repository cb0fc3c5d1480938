-- Whether the bytes of a key are to be deleted. ARGV: key.
return call('ZSCORE', GONE, ARGV[1]) and 1 or 0
