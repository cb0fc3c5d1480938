-- Pin objects. ARGV: most bytes that may be pinned, seconds ('' for good), whether a pin keeps what would expire, scope, keys.
-- Returns 'ok', the keys that exist, and those of them that were not pinned; or 'over' and the bytes that are pinned, and
-- nothing is changed.
local now = let_go(#ARGV)
local till = ARGV[2] == '' and FOREVER or now + tonumber(ARGV[2])
local pinned, found, fresh = sum('pinned'), {}, {}
for at = 5, #ARGV do
  if is_seen(ARGV[4], ARGV[at]) and call('HGET', named('row', ARGV[at]), 'kind') == 'object' then
    found[#found + 1] = ARGV[at]
    if not call('ZSCORE', PINS, ARGV[at]) then pinned = pinned + tonumber(call('HGET', SIZES, ARGV[at])) end
  end
end
if pinned > tonumber(ARGV[1]) and pinned > sum('pinned') then return { 'over', exact(sum('pinned')) } end
for _, key in ipairs(found) do
  if call('ZADD', PINS, exact(till), key) == 1 then
    call('HINCRBY', SUMS, 'pinned', call('HGET', SIZES, key))
    take_out(key)
    fresh[#fresh + 1] = key
  end
  if ARGV[3] == '1' then call('HSET', named('row', key), 'keeps', '1') else call('HDEL', named('row', key), 'keeps') end
  set_expiry(key)
end
return { 'ok', found, fresh }
