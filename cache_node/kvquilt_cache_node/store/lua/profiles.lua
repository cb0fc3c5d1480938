-- Rows of all profiles, each with the number of objects that are coded with it and of its gates, digests being ARGV.
local found = {}
for _, key in ipairs(call('SMEMBERS', PROFILES)) do
  local fields = call('HMGET', named('row', key), 'form', 'model', 'bytes', 'used')
  fields[5] = tonumber(call('HGET', FORMS, fields[1]) or '0')
  fields[6] = call('ZCARD', named('gates', fields[1]))
  fields[7] = key
  found[#found + 1] = fields
end
return found
