-- Objects and bytes of namespaces. ARGV: how many at most. Returns name, objects and bytes of each.
local found, all = {}, call('HGETALL', USED)
for at = 1, math.min(#all, 2 * tonumber(ARGV[1])), 2 do
  local objects = call('ZCARD', named('namespace', all[at])) + call('ZCARD', named('pinned', all[at]))
  found[#found + 1] = { all[at], objects, tonumber(all[at + 1]) or 0 }
end
return found
