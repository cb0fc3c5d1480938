-- Count a use of each key that exists, and let readers have it. ARGV: scope; seconds of a reader's lease (0: none); most bytes
-- under such leases; number of keys that readers have, these; number of documents, these; keys. Returns for each key whether
-- it exists.
-- Where the server's memory is full nothing is counted, so that reads go on.
local scope, seconds_read, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local documents = 6 + tonumber(ARGV[4])
local first = documents + tonumber(ARGV[documents - 1])
local found, now_age = {}, nil
local room = type(redis.pcall('HINCRBY', SUMS, 'used', 0)) == 'number' or first > documents
have_read(5, documents - 2)

local function passed()
  now_age = now_age or age()
  return now_age
end

local function read(key, bytes)
  local till = call('ZSCORE', READS, key)
  if not till then
    if call('ZCARD', READS) >= MOST_READS or sum('leased') + bytes > most then return end
    call('HINCRBY', SUMS, 'leased', bytes)
  end
  call('ZADD', READS, exact(math.max(passed() + seconds_read, tonumber(till or '0'))), key)
  call('HINCRBY', READERS, key, 1)
end

local function count(key)
  local now, name = tick(), named('row', key)
  local uses = call('HINCRBY', name, 'uses', 1)
  local kind, chunk, prefix, model, seconds, bytes, namespace, ttl =
    unpack(call('HMGET', name, 'kind', 'chunk', 'prefix', 'model', 'seconds', 'bytes', 'namespace', 'renewed'))
  call('HSET', name, 'used', exact(now))
  call('ZADD', IDLE, 'XX', exact(now), key)
  call('ZADD', NEEDED, 'XX', exact(now), key)
  if kind == 'object' then
    local rank = priority(uses, tonumber(seconds), tonumber(bytes), now)
    call('ZADD', ORDER, 'XX', rank, key)
    call('ZADD', named('namespace', namespace or ''), 'XX', rank, key)
    call('ZADD', USES, 'XX', exact(now), key)
    call('ZADD', variants_of(text_of(namespace or '', chunk), prefix, model), 'XX', exact(now), key)
    if ttl then
      call('HSET', name, 'ends', exact(passed() + tonumber(ttl)))
      set_expiry(key)
    end
    for document = documents, first - 1 do
      call('SADD', named('held', key), ARGV[document])
      call('SADD', document_of(namespace or '', ARGV[document]), key)
    end
  end
end

for at = first, #ARGV do
  local exists = is_seen(scope, ARGV[at])
  found[#found + 1] = exists and 1 or 0
  if exists and room then
    count(ARGV[at])
    if seconds_read > 0 then read(ARGV[at], tonumber(call('HGET', SIZES, ARGV[at]))) end
  end
end
return found
