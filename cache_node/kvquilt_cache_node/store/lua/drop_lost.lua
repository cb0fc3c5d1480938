-- Drop the row of a key whose bytes are gone, if it is the row of that time. ARGV: owner, key, created. Returns whether.
if call('HGET', named('row', ARGV[2]), 'created') ~= ARGV[3] then return 0 end
drop(ARGV[2], ARGV[1], 0, 'lost')
unhold(ARGV[2])
call('ZREM', GONE, ARGV[2])
return 1
