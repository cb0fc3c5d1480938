-- Count a use of each key that exists. ARGV: scope, number of documents, these, keys. Returns for each key whether it exists.
-- Where the server's memory is full nothing is counted, so that reads go on.
local first = 3 + tonumber(ARGV[2])
local found = {}
local room = type(redis.pcall('HINCRBY', SUMS, 'used', 0)) == 'number' or first > 3
for at = first, #ARGV do
  local key = ARGV[at]
  local there = is_seen(ARGV[1], key)
  found[#found + 1] = there and 1 or 0
  if there and room then
    local now, name = tick(), named('row', key)
    local uses = call('HINCRBY', name, 'uses', 1)
    local kind, chunk, prefix, model, seconds, bytes, namespace =
      unpack(call('HMGET', name, 'kind', 'chunk', 'prefix', 'model', 'seconds', 'bytes', 'namespace'))
    call('HSET', name, 'used', exact(now))
    call('ZADD', IDLE, 'XX', exact(now), key)
    call('ZADD', NEEDED, 'XX', exact(now), key)
    if kind == 'object' then
      local rank = priority(uses, tonumber(seconds), tonumber(bytes), now)
      call('ZADD', ORDER, 'XX', rank, key)
      call('ZADD', named('namespace', namespace or ''), 'XX', rank, key)
      call('ZADD', USES, 'XX', exact(now), key)
      call('ZADD', variants_of(text_of(namespace or '', chunk), prefix, model), 'XX', exact(now), key)
      for document = 3, first - 1 do
        call('SADD', named('held', key), ARGV[document])
        call('SADD', document_of(namespace or '', ARGV[document]), key)
      end
    end
  end
end
return found
