-- Objects of chunks, the most recently used first. ARGV: model, prefix, limit, scope, chunks. Returns the rows of each
-- chunk.
local found, limit, namespaces = {}, tonumber(ARGV[3]), namespaces_of(ARGV[4])

-- The first of a text that have not expired, with the times of their last uses.
local function newest(of, known)
  local first, last = 0, #known + limit
  repeat
    local used = call('ZREVRANGE', of, first, first + limit - 1, 'WITHSCORES')
    for place = 1, #used, 2 do
      if #known < last and not has_expired(used[place]) then known[#known + 1] = { used[place], tonumber(used[place + 1]) } end
    end
    first = first + limit
  until #known == last or #used < 2 * limit
end

for at = 5, #ARGV do
  local rows, known = {}, {}
  for _, namespace in ipairs(namespaces) do newest(variants_of(text_of(namespace, ARGV[at]), ARGV[2], ARGV[1]), known) end
  -- Of one namespace they are in order.
  if #namespaces > 1 then table.sort(known, function(one, other) return one[2] > other[2] or (one[2] == other[2] and one[1] > other[1]) end) end
  for place = 1, math.min(limit, #known) do rows[place] = row_of(known[place][1]) end
  found[#found + 1] = rows
end
return found
