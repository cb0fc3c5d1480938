-- Rows of objects. ARGV: keys. Returns key, fields and documents of each that is there.
local found = {}
for _, key in ipairs(ARGV) do
  if call('HEXISTS', SIZES, key) == 1 then found[#found + 1] = row_of(key) end
end
return found
