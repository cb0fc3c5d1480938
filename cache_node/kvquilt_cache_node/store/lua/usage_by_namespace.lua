-- Objects and bytes of namespaces. ARGV: how many at most. Returns name, objects and bytes of each.
local found, all = {}, call('HGETALL', USED)
for at = 1, math.min(#all, 2 * tonumber(ARGV[1])), 2 do
  found[#found + 1] = { all[at], call('ZCARD', named('namespace', all[at])), tonumber(all[at + 1]) }
end
return found
