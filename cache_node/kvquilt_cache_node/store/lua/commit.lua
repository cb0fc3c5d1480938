-- Enter what is written under a reservation. ARGV: key, owner, 13 fields of the row, seconds to live (''
-- without end), whether uses renew them, the latest end ('' for none), number of fingerprints, these, documents.
local key, owner = ARGV[1], ARGV[2]
local kind, namespace, model, tokens, variant, form, seconds, chunk, context, prefix, sources, intra, bytes =
  unpack(ARGV, 3, 15)
local ttl, renewed, latest = unpack(ARGV, 16, 18)
local first = 20 + tonumber(ARGV[19])
if call('HEXISTS', SIZES, key) == 1 then return 'stored' end
local _, held = holder(key)
if not holds(owner, key, server_time()) or held < tonumber(bytes) then return 'lost' end
local now = tick()
unhold(key)
call('ZREM', GONE, key)
call('HSET', named('row', key), 'kind', kind, 'namespace', namespace, 'model', model, 'tokens', tokens, 'variant', variant,
  'form', form, 'seconds', seconds, 'chunk', chunk, 'context', context, 'prefix', prefix, 'sources', sources,
  'intra', intra, 'bytes', bytes, 'created', exact(now), 'used', exact(now), 'uses', '0')
call('HSET', SIZES, key, bytes)
call('HINCRBY', SUMS, 'used', bytes)
add(USED, namespace, tonumber(bytes))
if kind == 'object' then
  local rank = priority(0, tonumber(seconds), tonumber(bytes), now)
  call('ZADD', ORDER, rank, key)
  call('ZADD', named('namespace', namespace), rank, key)
  call('ZADD', USES, exact(now), key)
  call('HINCRBY', SUMS, 'objects', 1)
  call('ZADD', MODELS, exact(now), model)
  for _, other in ipairs(call('ZRANGE', MODELS, 0, -65)) do call('ZREM', MODELS, other) end
  add(OBJECTS, namespace, 1)
  if ttl ~= '' then
    local left = tonumber(ttl)
    if latest ~= '' then left = math.min(left, tonumber(latest) - server_time()) end
    call('HSET', named('row', key), 'ends', exact(age() + left))
    if renewed == '1' then call('HSET', named('row', key), 'renewed', ttl) end
    set_expiry(key)
  end
  local text = text_of(namespace, chunk)
  call('ZADD', variants_of(text, prefix, model), exact(now), key)
  call('SADD', named('chunk', text), key)
  for at = 20, first - 1 do
    local print = string.sub(ARGV[at], 1, 16)
    call('ZADD', prints_of(namespace, print), 0, print_of(model, chunk, string.sub(ARGV[at], 17)))
    call('SADD', named('prints', text), ARGV[at])
  end
  hold_documents(key, first)
  if call('HINCRBY', FORMS, form, 1) == 1 then move_form(form, IDLE, NEEDED) end
else
  call('ZADD', is_needed(form) and NEEDED or IDLE, exact(now), key)
  if kind == 'profile' then
    call('SADD', PROFILES, key)
  else
    call('ZADD', named(FILES[kind], form), exact(now), key)
  end
end
return 'ok'
