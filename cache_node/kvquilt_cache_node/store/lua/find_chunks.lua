-- Chunks that have fingerprints. ARGV: model, limit, fingerprints. Returns for each fingerprint the chunks, with offset
-- and tokens.
local found = {}
local from, to = '[' .. print_of(ARGV[1], '', ''), '[' .. print_of(ARGV[1], string.rep('\255', 37), '')
for at = 3, #ARGV do
  local matches = {}
  for _, member in ipairs(call('ZRANGEBYLEX', named('print', ARGV[at]), from, to, 'LIMIT', 0, ARGV[2])) do
    matches[#matches + 1] = string.sub(member, 17)
  end
  found[#found + 1] = matches
end
return found
