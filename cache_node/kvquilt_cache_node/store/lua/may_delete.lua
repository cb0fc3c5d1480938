-- Whether there is no row, and the owner holds the key; then the lease begins anew. ARGV: owner, lease, key.
local time = server_time()
if call('HEXISTS', SIZES, ARGV[3]) == 1 or not holds(ARGV[1], ARGV[3], time) then return 0 end
prolong(ARGV[3], time + tonumber(ARGV[2]))
return 1
