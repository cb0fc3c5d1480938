-- Count a use of each key that exists. ARGV: number of documents, these, keys. Returns for each key whether it exists.
-- Where the server's memory is full nothing is counted, so that reads go on.
local first = 2 + tonumber(ARGV[1])
local found = {}
local room = type(redis.pcall('HINCRBY', SUMS, 'used', 0)) == 'number' or first > 2
for at = first, #ARGV do
  local key = ARGV[at]
  local there = call('HEXISTS', SIZES, key)
  found[#found + 1] = there
  if there == 1 and room then
    local now, name = tick(), named('row', key)
    local uses = call('HINCRBY', name, 'uses', 1)
    local kind, chunk, prefix, model, seconds, bytes =
      unpack(call('HMGET', name, 'kind', 'chunk', 'prefix', 'model', 'seconds', 'bytes'))
    call('HSET', name, 'used', exact(now))
    call('ZADD', IDLE, 'XX', exact(now), key)
    call('ZADD', NEEDED, 'XX', exact(now), key)
    if kind == 'object' then
      call('ZADD', ORDER, 'XX', priority(uses, tonumber(seconds), tonumber(bytes), now), key)
      call('ZADD', USES, 'XX', exact(now), key)
      call('ZADD', variants_of(chunk, prefix, model), 'XX', exact(now), key)
      for document = 2, first - 1 do
        call('SADD', named('held', key), ARGV[document])
        call('SADD', named('document', ARGV[document]), key)
      end
    end
  end
end
return found
