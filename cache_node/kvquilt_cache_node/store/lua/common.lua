-- What every script begins with. KEYS[1] begins the names of all keys of one index; its hash tag keeps them in one slot.
local P = KEYS[1] .. ':'
local SIZES, SUMS = P .. 'sizes', P .. 'sums'
local ORDER, USES = P .. 'order', P .. 'uses' -- of objects: what eviction goes by, and the times of their last uses
local IDLE, NEEDED = P .. 'idle', P .. 'needed' -- last uses of profiles and their files, without and with objects coded so
local HOLDS, LEASES = P .. 'holds', P .. 'leases'
local FORMS, PROFILES = P .. 'forms', P .. 'profiles'
local USED, RESERVED = P .. 'used', P .. 'reserved' -- bytes by namespace; one that has none is not in it
local OBJECTS = P .. 'objects' -- objects by namespace, likewise
local DEPARTED, DEPARTURES = P .. 'departed', P .. 'departures' -- of objects that left: when, and why
local MODELS = P .. 'models' -- that objects were stored of last, by time
local EXPIRIES, PINS = P .. 'expiries', P .. 'pins' -- of objects: by the age at which they expire; the pin ends
local READS, READERS = P .. 'reads', P .. 'readers' -- objects that are being read: by the age at which that ends; by how many
local GONE = P .. 'gone' -- keys without a row whose bytes are not known to be deleted, by time
local FOREVER = 1e18
local MOST_READS = 1024
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

-- Seconds that have passed, which times to live go by. It is the server's time until its clock is set back: then it goes on
-- from where it was. Between `keep_age` and a clock that is set back after it, nothing has passed.
local function age() return sum('age') + math.max(0, server_time() - sum('wall')) end

local function keep_age()
  call('HDEL', SUMS, 'aging') -- takes no memory; see `prolong`
  call('HSET', SUMS, 'age', exact(age()), 'wall', exact(server_time()))
end

-- Whether an object's time to live has ended though its row is there still. Asks for the time only where something has one.
local ended
local function has_expired(key)
  if ended == nil then
    ended = false
    if call('EXISTS', EXPIRIES) == 1 then
      local now = age()
      if call('ZRANGEBYSCORE', EXPIRIES, '-inf', exact(now), 'LIMIT', 0, 1)[1] then ended = now end
    end
  end
  return ended and (tonumber(call('ZSCORE', EXPIRIES, key) or FOREVER)) <= ended
end

local function there(key) return call('HEXISTS', SIZES, key) == 1 and not has_expired(key) end

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

-- Whether something is of a scope, expired or not.
local function is_owned(scope, key)
  if scope == '' then return call('HEXISTS', SIZES, key) == 1 end
  for _, namespace in ipairs(namespaces_of(scope)) do
    if call('ZSCORE', named('namespace', namespace), key) or call('ZSCORE', named('pinned', namespace), key) then
      return call('HEXISTS', SIZES, key) == 1
    end
  end
  return false
end

local function is_seen(scope, key)
  return is_owned(scope, key) and not has_expired(key)
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

-- Lists of what is kept with a profile: its gates, and what audits found of them.
local FILES = { gate = 'gates', audits = 'audits' }

-- A profile and its files, whose form is the profile's digest, when it is coded with first or no more.
local function move_form(form, from, to)
  if #form ~= 64 then return end
  local profile = string.gsub(form, '%x%x', function(digits) return string.char(tonumber(digits, 16)) end)
  move(profile, from, to)
  for _, list in pairs(FILES) do
    for _, file in ipairs(call('ZRANGE', named(list, form), 0, -1)) do move(file, from, to) end
  end
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

local function end_reads(key)
  if call('ZREM', READS, key) == 1 then
    call('HDEL', READERS, key)
    call('HINCRBY', SUMS, 'leased', -tonumber(call('HGET', SIZES, key) or '0'))
  end
end

-- When an object expires: at its end, or with the pin that keeps it, if that is later.
local function set_expiry(key)
  local ends, keeps = unpack(call('HMGET', named('row', key), 'ends', 'keeps'))
  if not ends then return end
  local pinned = keeps and tonumber(call('ZSCORE', PINS, key) or '0') or 0
  call('ZADD', EXPIRIES, exact(math.max(tonumber(ends), pinned)), key)
end

-- What a departure is called: 20 bytes of a place, which is a chunk key and a prefix digest, and a namespace.
local function departure_name(place, namespace)
  return (string.gsub(redis.sha1hex(place .. namespace), '%x%x', function(digits) return string.char(tonumber(digits, 16)) end))
end

-- The server's time at an age that has been.
local function time_of(past) return server_time() - math.max(0, age() - past) end

-- Remember why an object left, and of what was not forgotten whose it was; '': leave no trace. What expired left then,
-- at the age `ended`, and what left later is not forgotten for it. What another program put under these names must not keep
-- anything from being removed: it goes.
local function depart(place, reason, namespace, ended)
  local kept = sum('departures')
  if reason == '' or kept == 0 then return end
  local name, whose = departure_name(place, namespace), reason == 'forgotten' and '' or namespace
  local at = ended and time_of(tonumber(ended)) or server_time()
  local known = ended and redis.pcall('ZSCORE', DEPARTED, name)
  if type(known) == 'string' and tonumber(known) > at then return end
  local added = redis.pcall('ZADD', DEPARTED, exact(at), name)
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
  local ended = reason == 'expired' and call('ZSCORE', EXPIRIES, key)
  end_reads(key)
  if call('ZREM', PINS, key) == 1 then call('HINCRBY', SUMS, 'pinned', -size) end
  call('UNLINK', name)
  call('HDEL', SIZES, key)
  for _, order in ipairs({ ORDER, USES, IDLE, NEEDED, EXPIRIES }) do call('ZREM', order, key) end
  call('HINCRBY', SUMS, 'used', -size)
  add(USED, namespace, -size)
  call('ZADD', GONE, exact(server_time()), key)
  hold(key, owner, 0, expiry)
  work = work + 27 + 2 * #documents
  if kind == 'profile' then
    call('SREM', PROFILES, key)
  elseif FILES[kind] then
    call('ZREM', named(FILES[kind], form), key)
  elseif kind == 'object' then
    call('HINCRBY', SUMS, 'objects', -1)
    depart(chunk .. prefix, reason, namespace, ended)
    add(OBJECTS, namespace, -1)
    for _, document in ipairs(documents) do call('SREM', document_of(namespace, document), key) end
    call('ZREM', named('namespace', namespace), key)
    call('ZREM', named('pinned', namespace), key)
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

local timed, pins
-- When an object expires, by the server's time ('' if never), and whether it is pinned.
local function stay_of(key)
  if timed == nil then timed, pins = call('EXISTS', EXPIRIES) == 1, call('EXISTS', PINS) == 1 end
  local expires, pinned = timed and call('ZSCORE', EXPIRIES, key), pins and call('ZSCORE', PINS, key)
  if expires and tonumber(expires) >= FOREVER then expires = nil end
  return {
    expires and exact(tonumber(expires) - age() + server_time()) or '',
    pinned and tonumber(pinned) > age() and 1 or 0,
  }
end

-- A row as it is returned: key, fields, documents, how long it stays. A value of another type is left out, and so is what is
-- not there.
local function row_of(key)
  local name, held = named('row', key), named('held', key)
  local fields = {}
  if call('TYPE', name).ok == 'hash' then
    fields = call('HMGET', name, 'kind', 'namespace', 'model', 'tokens', 'variant', 'form', 'seconds', 'chunk', 'context',
      'prefix', 'sources', 'intra', 'bytes', 'created', 'used', 'uses')
  end
  return { key, fields, call('TYPE', held).ok == 'set' and call('SMEMBERS', held) or {}, stay_of(key) }
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

local function namespace_of(key) return call('HGET', named('row', key), 'namespace') or '' end

-- Eviction has an object no more: it is pinned.
local function take_out(key)
  call('ZREM', ORDER, key)
  call('ZREM', named('namespace', namespace_of(key)), key)
  call('ZADD', named('pinned', namespace_of(key)), 0, key)
end

-- An object is pinned no more: eviction has it again, as if it had just been used.
local function unpin(key)
  if call('ZREM', PINS, key) == 0 then return false end
  local name = named('row', key)
  local seconds, bytes, uses = unpack(call('HMGET', name, 'seconds', 'bytes', 'uses'))
  call('HDEL', name, 'keeps')
  call('HINCRBY', SUMS, 'pinned', -tonumber(bytes))
  local rank = priority(tonumber(uses), tonumber(seconds), tonumber(bytes), tick())
  call('ZADD', ORDER, rank, key)
  call('ZREM', named('pinned', namespace_of(key)), key)
  call('ZADD', named('namespace', namespace_of(key)), rank, key)
  set_expiry(key)
  return true
end

-- Pins and readers' leases that have run out. Returns the age.
local function let_go(batch)
  local now = age()
  for _, key in ipairs(call('ZRANGEBYSCORE', PINS, '-inf', exact(now), 'LIMIT', 0, batch)) do unpin(key) end
  for _, key in ipairs(call('ZRANGEBYSCORE', READS, '-inf', exact(now), 'LIMIT', 0, batch)) do end_reads(key) end
  return now
end

-- Some readers have what they read. ARGV: from first to last, keys.
local function have_read(first, last)
  call('HDEL', READERS, '') -- takes no memory; see `prolong`
  for at = first, last do
    local key = ARGV[at]
    if tonumber(call('HGET', READERS, key) or '0') > 1 then
      call('HINCRBY', READERS, key, -1)
    else
      end_reads(key)
    end
  end
end
