-- Set bytes apart for the writer of a key, and drop rows in its way. ARGV: key, owner, bytes, capacity, lease, batch.
-- Returns a status and keys whose bytes the owner deletes now: 'ok'; 'more' (call again); 'stored' (there is a row);
-- 'busy' (another one writes or deletes it); 'over' and what is reserved; 'drift' (the sums are wrong).
local key, owner = ARGV[1], ARGV[2]
local bytes, capacity, lease, batch = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local time, used = server_time(), sum('used')
if call('HEXISTS', SIZES, key) == 1 then return { 'stored' } end
local who = holder(key)
if who and who ~= owner and holds(who, key, time) then return { 'busy' } end
unhold(key)

-- What a node left that died: its reservations are void, and what it may have written is to be deleted.
local left = call('ZRANGEBYSCORE', LEASES, '-inf', exact(time), 'LIMIT', 0, batch)
for _, other in ipairs(left) do
  local other_owner, other_bytes = holder(other)
  if other_bytes ~= 0 then
    call('HINCRBY', SUMS, 'reserved', -other_bytes)
    call('HSET', HOLDS, other, other_owner .. ':0')
  end
end
local reserved = sum('reserved')
local over = bytes + reserved > capacity
if over and #left < batch then return { 'over', exact(reserved) } end

local gone = {}
for _, other in ipairs(left) do
  hold(other, owner, 0, time + lease)
  gone[#gone + 1] = other
end
if over then return { 'more', unpack(gone) } end
local excess, clock, exhausted = used + reserved + bytes - capacity, sum('clock'), false
while excess > 0 and #gone < 2 * batch and work < 16 * batch and not exhausted do
  -- A profile or a gate that nothing needs goes when no object has been unused for longer.
  local order = ORDER
  local idle, oldest = call('ZRANGE', IDLE, 0, 0, 'WITHSCORES'), call('ZRANGE', USES, 0, 0, 'WITHSCORES')
  if idle[1] and (not oldest[1] or tonumber(idle[2]) < tonumber(oldest[2])) then order = IDLE end
  local victim = call('ZRANGE', order, 0, 0, 'WITHSCORES')
  local size = victim[1] and drop(victim[1], owner, time + lease)
  if size then
    gone[#gone + 1] = victim[1]
    excess = excess - size
    if order == ORDER then clock = math.max(clock, tonumber(victim[2])) end
  elseif victim[1] then
    call('ZREM', order, victim[1])
  else
    exhausted = true
  end
end
call('HSET', SUMS, 'clock', exact(clock))
if excess > 0 then return { exhausted and 'drift' or 'more', unpack(gone) } end
hold(key, owner, bytes, time + lease)
return { 'ok', unpack(gone) }
