-- Let documents hold some objects of the first of them no more, and drop what nobody holds then.
-- ARGV: owner, lease, batch, namespace, reason, documents. Returns keys and sizes of what was dropped; keys that others hold; whether the
-- first document holds more.
local expiry, dropped, shared = server_time() + tonumber(ARGV[2]), {}, {}
local first = document_of(ARGV[4], ARGV[6])

local function gone(key)
  local size = drop(key, ARGV[1], expiry, ARGV[5])
  if size then
    dropped[#dropped + 1] = key
    dropped[#dropped + 1] = size
  end
end

for _, key in ipairs(call('SRANDMEMBER', first, tonumber(ARGV[3]))) do
  if work > 16 * tonumber(ARGV[3]) then break end
  for at = 6, #ARGV do
    call('SREM', named('held', key), ARGV[at])
    call('SREM', document_of(ARGV[4], ARGV[at]), key)
  end
  if call('EXISTS', named('held', key)) == 1 then
    shared[#shared + 1] = key
  else
    -- With the last object of a text that a document held go the variants that nobody holds.
    local same = named('chunk', text_of(ARGV[4], call('HGET', named('row', key), 'chunk') or ''))
    gone(key)
    local variants = call('SMEMBERS', same)
    local held = 0
    for _, variant in ipairs(variants) do held = held + call('EXISTS', named('held', variant)) end
    if held == 0 then
      for _, variant in ipairs(variants) do gone(variant) end
    end
  end
end
return { dropped, shared, call('EXISTS', first) }
