-- When something was stored, and its size. ARGV: key. Returns the time as text and the bytes, or nothing.
local at = call('HGET', named('row', ARGV[1]), 'created')
if not at or not there(ARGV[1]) then return false end
return { at, call('HGET', SIZES, ARGV[1]) }
