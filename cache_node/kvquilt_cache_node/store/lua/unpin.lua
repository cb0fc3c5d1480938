-- Unpin objects. ARGV: scope, keys. Returns those that were pinned.
local found = {}
for at = 2, #ARGV do
  if is_owned(ARGV[1], ARGV[at]) and unpin(ARGV[at]) then found[#found + 1] = ARGV[at] end
end
return found
