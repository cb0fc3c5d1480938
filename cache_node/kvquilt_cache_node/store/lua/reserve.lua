-- Set bytes apart for the writer of a key, and drop rows in its way. ARGV: key, owner, bytes, capacity, lease, batch,
-- namespace ('': nobody's), quotas (JSON of floor, share and cap by namespace, '*' for every other one; '': none), keys that
-- readers have.
-- Returns a status and keys whose bytes the owner deletes now: 'ok'; 'more' (call again); 'stored' (there is a row);
-- 'busy' (another one writes or deletes it); 'over' and what is reserved or pinned; 'quota', what the namespace has reserved and its
-- cap; 'share' (the rest is others', who are at their floors); 'drift' (the sums are wrong).
local key, owner = ARGV[1], ARGV[2]
local bytes, capacity, lease, batch = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local namespace, quotas = ARGV[7], ARGV[8] ~= '' and cjson.decode(ARGV[8]) or nil
local time, used = server_time(), sum('used')

local function quota(name) return quotas[name] or quotas['*'] end

if there(key) then return { 'stored' } end
local who = holder(key)
if who and who ~= owner and holds(who, key, time) then return { 'busy' } end
unhold(key)
have_read(9, #ARGV)
local now = let_go(batch)

-- What a node left that died: its reservations are void, and what it may have written is to be deleted.
local left = call('ZRANGEBYSCORE', LEASES, '-inf', exact(time), 'LIMIT', 0, batch)
for _, other in ipairs(left) do
  local other_owner, other_bytes, other_namespace = holder(other)
  unreserve(other_bytes, other_namespace)
  if other_bytes ~= 0 then call('HSET', HOLDS, other, other_owner .. ':0:') end
end
local reserved = sum('reserved')
local pinned = sum('pinned')
local over = bytes + reserved + pinned > capacity
if over and #left < batch then return { 'over', exact(reserved + pinned) } end

local cap = quotas and namespace ~= '' and quota(namespace)[3] >= 0 and quota(namespace)[3]
local own = tonumber(call('HGET', RESERVED, namespace) or '0')
if not over and cap and bytes + own > cap and #left < batch then return { 'quota', exact(own), exact(cap) } end

local protected, of_all = 0, 0
if quotas then
  local all = call('HGETALL', USED)
  for at = 1, #all, 2 do
    of_all = of_all + tonumber(all[at + 1])
    if all[at] ~= namespace then protected = protected + math.min(tonumber(all[at + 1]), quota(all[at])[1]) end
  end
  if protected > 0 then protected = protected + used - of_all end -- profiles and gates that it needs
end
if not over and bytes + reserved + protected > capacity and #left < batch then return { 'share' } end

local gone = {}
for _, other in ipairs(left) do
  hold(other, owner, 0, time + lease)
  gone[#gone + 1] = other
end
if over or (cap and bytes + own > cap) or bytes + reserved + protected > capacity then return { 'more', unpack(gone) } end
if drop(key, owner, time + lease, 'expired') then
  gone[#gone + 1] = key
  unhold(key)
  used = sum('used')
end

-- By namespace what it holds, reservations included, and what is put now.
local held = {}
if quotas then
  for _, hash in ipairs({ USED, RESERVED }) do
    local all = call('HGETALL', hash)
    for at = 1, #all, 2 do held[all[at]] = (held[all[at]] or 0) + tonumber(all[at + 1]) end
  end
  if namespace ~= '' then held[namespace] = (held[namespace] or 0) + bytes end
end

-- The first that is not being read; if there is none, the first.
local function first_of(order)
  local from, found = 0, nil
  repeat
    found = call('ZRANGE', order, from, from, 'WITHSCORES')
    from = from + 1
    work = work + 1
  until not found[1] or not call('ZSCORE', READS, found[1])
  return found[1] and found or call('ZRANGE', order, 0, 0, 'WITHSCORES')
end

-- Whose object goes: `eviction/quotas.py` has the rule. Here the object that would go is known, so it takes the place of
-- the largest one. Returns the order to take the first of, or nothing.
local function share_order()
  local clear, above
  for name, bytes_held in pairs(held) do
    local floor, share = quota(name)[1], quota(name)[2]
    local excess = bytes_held - floor
    local order = named('namespace', name)
    if excess > 0 and call('EXISTS', order) == 1 then
      local found = { excess / share, name == namespace and 1 or 0, name, order }
      local function before(other)
        for at = 1, 3 do
          if found[at] ~= other[at] then return found[at] > other[at] end
        end
      end
      if not above or before(above) then above = found end
      local least = 0
      if floor > 0 and name ~= namespace then
        local key_first = first_of(order)[1]
        least = math.max(tonumber(call('HGET', SIZES, key_first) or '0'), 1)
      end
      if excess >= least and (not clear or before(clear)) then clear = found end
    end
  end
  if clear then return clear[4] end
  if namespace ~= '' and call('EXISTS', named('namespace', namespace)) == 1 then return named('namespace', namespace) end
  return above and above[4]
end

local excess, clock, stuck = used + reserved + bytes - capacity, sum('clock'), nil
local own_excess = cap and held[namespace] - cap or 0
while (excess > 0 or own_excess > 0) and #gone < 2 * batch and work < 16 * batch and not stuck do
  local order = ORDER
  local late = call('ZRANGEBYSCORE', EXPIRIES, '-inf', exact(now), 'LIMIT', 0, 1)[1]
  if late then
    order = EXPIRIES
  elseif own_excess > 0 then
    order = named('namespace', namespace)
  else
    -- A profile or a gate that nothing needs goes when no object has been unused for longer.
    local idle, oldest = first_of(IDLE), first_of(USES)
    if idle[1] and (not oldest[1] or tonumber(idle[2]) < tonumber(oldest[2]) or call('EXISTS', ORDER) == 0) then
      order = IDLE
    elseif quotas then
      order = share_order()
    end
  end
  local victim = late and { late } or order and first_of(order) or {}
  local owner_of = victim[1] and quotas and order ~= IDLE and call('HGET', named('row', victim[1]), 'namespace')
  local size = victim[1] and drop(victim[1], owner, time + lease, late and 'expired' or 'evicted')
  if size then
    gone[#gone + 1] = victim[1]
    excess = excess - size
    if owner_of and held[owner_of] then held[owner_of] = held[owner_of] - size end
    if owner_of == namespace then own_excess = own_excess - size end
    if order ~= IDLE and order ~= EXPIRIES then clock = math.max(clock, tonumber(victim[2])) end
  elseif victim[1] then
    call('ZREM', order, victim[1])
  else
    stuck = order and 'drift' or 'share'
  end
end
call('HSET', SUMS, 'clock', exact(clock))
if stuck == 'drift' and pinned > 0 then return { 'over', exact(reserved + pinned) } end -- they need a profile, which stays too
if excess > 0 or own_excess > 0 then return { stuck or 'more', unpack(gone) } end
hold(key, owner, bytes, time + lease, namespace)
return { 'ok', unpack(gone) }
