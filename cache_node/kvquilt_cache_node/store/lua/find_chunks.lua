-- Chunks that have fingerprints. ARGV: model, limit, scope, fingerprints. Returns for each fingerprint the chunks, with
-- offset and tokens.
local found, limit, namespaces = {}, tonumber(ARGV[2]), namespaces_of(ARGV[3])
local from, to = '[' .. print_of(ARGV[1], '', ''), '[' .. print_of(ARGV[1], string.rep('\255', 37), '')
local seen = {}

-- Whether some object of a text has not expired.
local function lives(namespace, chunk)
  local text = text_of(namespace, chunk)
  if seen[text] == nil then
    seen[text] = false
    for _, key in ipairs(call('SMEMBERS', named('chunk', text))) do seen[text] = seen[text] or not has_expired(key) end
  end
  return seen[text]
end

has_expired('')

for at = 4, #ARGV do
  local matches = {}
  for _, namespace in ipairs(namespaces) do
    local first, last = 0, #matches + limit
    repeat
      local members = call('ZRANGEBYLEX', prints_of(namespace, ARGV[at]), from, to, 'LIMIT', first, limit)
      for _, member in ipairs(members) do
        if #matches < last and (not ended or lives(namespace, string.sub(member, 17, 48))) then
          matches[#matches + 1] = string.sub(member, 17)
        end
      end
      first = first + limit
    until #matches == last or #members < limit
  end
  if #namespaces > 1 then table.sort(matches) end
  for place = #matches, limit + 1, -1 do matches[place] = nil end
  found[#found + 1] = matches
end
return found
