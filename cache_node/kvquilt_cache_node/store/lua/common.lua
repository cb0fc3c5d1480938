-- What every script begins with. KEYS[1] begins the names of all keys of one index; its hash tag keeps them in one slot.
local P = KEYS[1] .. ':'
local SIZES, SUMS = P .. 'sizes', P .. 'sums'
local ORDER, USES = P .. 'order', P .. 'uses' -- of objects: what eviction goes by, and the times of their last uses
local IDLE, NEEDED = P .. 'idle', P .. 'needed' -- last uses of profiles and gates, without and with objects coded so
local HOLDS, LEASES = P .. 'holds', P .. 'leases'
local FORMS, PROFILES = P .. 'forms', P .. 'profiles'
local USED, RESERVED = P .. 'used', P .. 'reserved' -- bytes by namespace; one that has none is not in it
local OBJECTS = P .. 'objects' -- objects by namespace, likewise
local DEPARTED, DEPARTURES = P .. 'departed', P .. 'departures' -- of objects that left: when, and why
local MODELS = P .. 'models' -- that objects were stored of last, by time
local call = redis.call
local work = 0 -- calls of the server that dropping rows has taken, about

local function named(kind, name) return P .. kind .. ':' .. name end

-- tostring() keeps 14 digits, too few for a time with microseconds.
local function exact(number) return string.format('%.17g', number) end

local function sum(field) return tonumber(call('HGET', SUMS, field) or '0') end

local function add(hash, field, number)
  if field ~= '' and number ~= 0 and call('HINCRBY', hash, field, number) == 0 then call('HDEL', hash, field) end
end

local function server_time()
  local time = call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1e6
end

-- Later than all times before, also when the server's clock was set back: the order of uses is the order of calls.
local function tick()
  local now = math.max(server_time(), sum('now') + 1e-6)
  call('HSET', SUMS, 'now', exact(now))
  return now
end

-- Who may write or delete the bytes of a key: HOLDS has the owner, the bytes reserved and for which namespace, LEASES
-- until when.
local function holder(key)
  local held = call('HGET', HOLDS, key)
  if not held then return nil, 0, '' end
  local owner, bytes, namespace = string.match(held, '^(%x+):(%d+):(.*)$')
  return owner or '', tonumber(bytes or '0'), namespace or ''
end

local function holds(owner, key, time)
  return (holder(key)) == owner and (tonumber(call('ZSCORE', LEASES, key) or '0')) > time
end

local function unreserve(bytes, namespace)
  if bytes ~= 0 then call('HINCRBY', SUMS, 'reserved', -bytes) end
  add(RESERVED, namespace, -bytes)
end

local function unhold(key)
  local _, bytes, namespace = holder(key)
  call('HDEL', HOLDS, key)
  call('ZREM', LEASES, key)
  unreserve(bytes, namespace)
end

-- A server whose memory is full lets a script write only if its first write is one that takes no memory.
local function prolong(key, time)
  call('ZREM', LEASES, key)
  call('ZADD', LEASES, exact(time), key)
end

local function hold(key, owner, bytes, expiry, namespace)
  call('HSET', HOLDS, key, owner .. ':' .. string.format('%d', bytes) .. ':' .. (namespace or ''))
  call('ZADD', LEASES, exact(expiry), key)
  if bytes ~= 0 then call('HINCRBY', SUMS, 'reserved', bytes) end
  add(RESERVED, namespace or '', bytes)
end

-- The namespaces of a scope: names between spaces, or empty: all that have anything. Whoever looks something up looks
-- under a namespace's name, never for it first and at its namespace then: so what another namespace has is the same miss,
-- in the same time, as what nobody has.
local function namespaces_of(scope)
  if scope == '' then return call('HKEYS', OBJECTS) end
  local names, known = {}, {}
  for name in string.gmatch(scope, '%S+') do
    if not known[name] then names[#names + 1], known[name] = name, true end
  end
  return names
end

local function is_seen(scope, key)
  if scope == '' then return call('HEXISTS', SIZES, key) == 1 end
  for _, namespace in ipairs(namespaces_of(scope)) do
    if call('ZSCORE', named('namespace', namespace), key) then return call('HEXISTS', SIZES, key) == 1 end
  end
  return false
end

-- A namespace's name has no "/".
local function document_of(namespace, id) return named('document', namespace .. '/' .. id) end

local function is_needed(form) return tonumber(call('HGET', FORMS, form) or '0') > 0 end

local function move(key, from, to)
  local score = call('ZSCORE', from, key)
  if score then
    call('ZREM', from, key)
    call('ZADD', to, score, key)
  end
end

-- A profile and its gates, whose form is the profile's digest, when it is coded with first or no more.
local function move_form(form, from, to)
  if #form ~= 64 then return end
  local profile = string.gsub(form, '%x%x', function(digits) return string.char(tonumber(digits, 16)) end)
  move(profile, from, to)
  for _, gate in ipairs(call('ZRANGE', named('gates', form), 0, -1)) do move(gate, from, to) end
end

-- A namespace's text, by the key of its chunk, and what is known of it.
local function text_of(namespace, chunk) return chunk .. namespace end

local function variants_of(text, prefix, model) return named('variants', prefix .. model .. text) end

local function prints_of(namespace, fingerprint) return named('print', fingerprint .. namespace) end

-- What stands under a fingerprint: of a chunk of a model, with offset and tokens. At most 64 bytes: what is longer takes
-- several times the memory.
local function print_of(model, chunk, place) return string.sub(redis.sha1hex(model), 1, 16) .. chunk .. place end

local function forget_chunk(namespace, chunk, model)
  local known = named('prints', text_of(namespace, chunk))
  local prints = call('SMEMBERS', known)
  for _, print in ipairs(prints) do
    call('ZREM', prints_of(namespace, string.sub(print, 1, 16)), print_of(model, chunk, string.sub(print, 17)))
  end
  call('UNLINK', known)
  work = work + #prints
end

-- What a departure is called: 20 bytes of a place, which is a chunk key and a prefix digest.
local function departure_name(place)
  return (string.gsub(redis.sha1hex(place), '%x%x', function(digits) return string.char(tonumber(digits, 16)) end))
end

-- Remember why an object left, and of what was not forgotten whose it was; '': leave no trace. What another program put
-- under these names must not keep anything from being removed: it goes.
local function depart(place, reason, namespace)
  local kept = sum('departures')
  if reason == '' or kept == 0 then return end
  local name, whose = departure_name(place), reason == 'forgotten' and '' or namespace
  local added = redis.pcall('ZADD', DEPARTED, exact(server_time()), name)
  local noted = redis.pcall('HSET', DEPARTURES, name, reason .. ':' .. whose)
  if type(added) == 'table' or type(noted) == 'table' then
    call('UNLINK', DEPARTED, DEPARTURES)
    return
  end
  local excess = math.min(call('ZCARD', DEPARTED) - kept, 64)
  if excess <= 0 then return end
  local oldest = call('ZRANGE', DEPARTED, 0, excess - 1)
  call('ZREM', DEPARTED, unpack(oldest))
  call('HDEL', DEPARTURES, unpack(oldest))
end

-- Drop a row and all that leads to it, for a reason. Its bytes are the owner's to delete from now on. Returns its size, if
-- it is there.
local function drop(key, owner, expiry, reason)
  local size = tonumber(call('HGET', SIZES, key) or '')
  if not size then return nil end
  local name = named('row', key)
  local row = {}
  if call('TYPE', name).ok == 'hash' then
    row = call('HMGET', name, 'kind', 'chunk', 'prefix', 'model', 'form', 'namespace')
  end
  local kind, chunk, prefix, model, form, namespace = unpack(row)
  namespace = namespace or ''

  local documents = kind == 'object' and call('SMEMBERS', named('held', key)) or {}
  call('UNLINK', name)
  call('HDEL', SIZES, key)
  for _, order in ipairs({ ORDER, USES, IDLE, NEEDED }) do call('ZREM', order, key) end
  call('HINCRBY', SUMS, 'used', -size)
  add(USED, namespace, -size)
  hold(key, owner, 0, expiry)
  work = work + 20 + 2 * #documents
  if kind == 'profile' then
    call('SREM', PROFILES, key)
  elseif kind == 'gate' then
    call('ZREM', named('gates', form), key)
  elseif kind == 'object' then
    call('HINCRBY', SUMS, 'objects', -1)
    depart(chunk .. prefix, reason, namespace)
    add(OBJECTS, namespace, -1)
    for _, document in ipairs(documents) do call('SREM', document_of(namespace, document), key) end
    call('ZREM', named('namespace', namespace), key)
    call('UNLINK', named('held', key))
    local text = text_of(namespace, chunk)
    call('ZREM', variants_of(text, prefix, model), key)
    call('SREM', named('chunk', text), key)
    if call('EXISTS', named('chunk', text)) == 0 then forget_chunk(namespace, chunk, model) end
    if call('HINCRBY', FORMS, form, -1) <= 0 then
      call('HDEL', FORMS, form)
      move_form(form, NEEDED, IDLE)
    end
  end
  return size
end

-- A row as it is returned: key, fields, documents. A value of another type is left out, and so is what is not there.
local function row_of(key)
  local name, held = named('row', key), named('held', key)
  local fields = {}
  if call('TYPE', name).ok == 'hash' then
    fields = call('HMGET', name, 'kind', 'namespace', 'model', 'tokens', 'variant', 'form', 'seconds', 'chunk', 'context',
      'prefix', 'sources', 'intra', 'bytes', 'created', 'used', 'uses')
  end
  return { key, fields, call('TYPE', held).ok == 'set' and call('SMEMBERS', held) or {} }
end

local function hold_documents(key, first)
  local kind, namespace = unpack(call('HMGET', named('row', key), 'kind', 'namespace'))
  if kind ~= 'object' then return end
  for at = first, #ARGV do
    call('SADD', named('held', key), ARGV[at])
    call('SADD', document_of(namespace or '', ARGV[at]), key)
  end
end

-- What eviction goes by, the lowest first; the sum `clock` is that of the last victim. Both are functions of a row.
-- gdsf: GreedyDual-Size-Frequency (Cherkasova 1998), as `eviction/gdsf.py` has it.
local PRIORITIES = {
  lru = function(_, _, _, now) return now end,
  gdsf = function(uses, seconds, bytes)
    return sum('clock') + (uses + 1) * math.max(seconds, 1e-6) / math.max(bytes, 1)
  end,
}

local function priority(...) return exact(PRIORITIES[call('HGET', SUMS, 'policy')](...)) end
