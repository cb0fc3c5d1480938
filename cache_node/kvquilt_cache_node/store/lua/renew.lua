-- Prolong holds that have not run out. ARGV: owner, lease, keys.
local time = server_time()
for at = 3, #ARGV do
  if holds(ARGV[1], ARGV[at], time) then prolong(ARGV[at], time + tonumber(ARGV[2])) end
end
