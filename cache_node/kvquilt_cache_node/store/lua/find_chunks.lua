-- Chunks that have fingerprints. ARGV: model, limit, scope, fingerprints. Returns for each fingerprint the chunks, with
-- offset and tokens.
local found, seen = {}, {}
local from, to = '[' .. print_of(ARGV[1], '', ''), '[' .. print_of(ARGV[1], string.rep('\255', 37), '')

local function is_of_scope(chunk)
  if ARGV[3] == '' then return true end
  if seen[chunk] == nil then
    local key = call('SRANDMEMBER', named('chunk', chunk))
    seen[chunk] = key and is_seen(ARGV[3], key) or false
  end
  return seen[chunk]
end

local limit = tonumber(ARGV[2])
for at = 4, #ARGV do
  local matches, begin = {}, 0
  repeat
    local members = call('ZRANGEBYLEX', named('print', ARGV[at]), from, to, 'LIMIT', begin, limit)
    for _, member in ipairs(members) do
      if #matches < limit and is_of_scope(string.sub(member, 17, 48)) then matches[#matches + 1] = string.sub(member, 17) end
    end
    begin = begin + limit
  until #matches == limit or #members < limit
  found[#found + 1] = matches
end
return found
