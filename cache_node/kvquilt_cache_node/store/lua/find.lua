-- Rows of objects. ARGV: scope, keys. Returns key, fields and documents of each that is there.
local found = {}
for at = 2, #ARGV do
  if is_seen(ARGV[1], ARGV[at]) then found[#found + 1] = row_of(ARGV[at]) end
end
return found
