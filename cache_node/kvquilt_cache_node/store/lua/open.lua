-- ARGV: format version, policy, departures to keep. Returns the version and the policy of the index, which is made on the first call, and
-- what the server does when its memory is full ('' if it does not tell).
local version = call('GET', P .. 'version')
if not version and call('EXISTS', SIZES, SUMS, ORDER) == 0 then
  call('SET', P .. 'version', ARGV[1])
  call('HSET', SUMS, 'policy', ARGV[2])
  version = ARGV[1]
end
local full = ''
local memory = redis.pcall('INFO', 'memory')
if type(memory) == 'string' then full = string.match(memory, 'maxmemory_policy:([%w-]+)') or '' end
if version ~= ARGV[1] then return { version or '', '', full } end
call('HSET', SUMS, 'departures', ARGV[3])
return { version, call('HGET', SUMS, 'policy') or '', full }
