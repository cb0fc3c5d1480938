-- Chunks that have fingerprints. ARGV: model, limit, scope, fingerprints. Returns for each fingerprint the chunks, with
-- offset and tokens.
local found, limit, namespaces = {}, tonumber(ARGV[2]), namespaces_of(ARGV[3])
local from, to = '[' .. print_of(ARGV[1], '', ''), '[' .. print_of(ARGV[1], string.rep('\255', 37), '')
for at = 4, #ARGV do
  local matches = {}
  for _, namespace in ipairs(namespaces) do
    for _, member in ipairs(call('ZRANGEBYLEX', prints_of(namespace, ARGV[at]), from, to, 'LIMIT', 0, limit)) do
      matches[#matches + 1] = string.sub(member, 17)
    end
  end
  if #namespaces > 1 then table.sort(matches) end
  for place = #matches, limit + 1, -1 do matches[place] = nil end
  found[#found + 1] = matches
end
return found
