-- Rows of the files of a profile, the one that was stored last first. ARGV: the list (see FILES), profile digest.
local found = {}
for _, key in ipairs(call('ZREVRANGE', named(ARGV[1], ARGV[2]), 0, -1)) do
  local fields = call('HMGET', named('row', key), 'model', 'form', 'bytes', 'created')
  fields[5] = key
  found[#found + 1] = fields
end
return found
