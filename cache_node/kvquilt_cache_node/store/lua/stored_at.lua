-- When something was stored. ARGV: key. Returns its time as text, or nothing.
return call('HGET', named('row', ARGV[1]), 'created')
