-- Drop rows that have expired, and take over what nobody deletes. ARGV: owner, lease, batch. Returns how many
-- rows have expired, and keys whose bytes the owner deletes now.
local owner, lease, batch = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
keep_age()
local now, time, found = let_go(batch), server_time(), {}
for _, key in ipairs(call('ZRANGEBYSCORE', EXPIRIES, '-inf', exact(now), 'LIMIT', 0, batch)) do
  if work > 16 * batch then break end
  if drop(key, owner, time + lease, 'expired') then found[#found + 1] = key else call('ZREM', EXPIRIES, key) end
end
local expired = #found
for _, key in ipairs(call('ZRANGEBYSCORE', LEASES, '-inf', exact(time), 'LIMIT', 0, batch)) do
  unhold(key)
  hold(key, owner, 0, time + lease)
  found[#found + 1] = key
end
for _, key in ipairs(call('ZRANGE', GONE, 0, batch - 1)) do
  if not holder(key) then
    hold(key, owner, 0, time + lease)
    found[#found + 1] = key
  end
end
return { expired, unpack(found) }
