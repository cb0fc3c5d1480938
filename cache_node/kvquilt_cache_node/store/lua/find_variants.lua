-- Objects of chunks, the most recently used first. ARGV: model, prefix, limit, scope, chunks. Returns the rows of each
-- chunk.
local found = {}
for at = 5, #ARGV do
  local rows = {}
  for _, key in ipairs(call('ZREVRANGE', variants_of(ARGV[at], ARGV[2], ARGV[1]), 0, tonumber(ARGV[3]) - 1)) do
    if is_seen(ARGV[4], key) then rows[#rows + 1] = row_of(key) end
  end
  found[#found + 1] = rows
end
return found
