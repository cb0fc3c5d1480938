-- Drop some rows of a namespace, without a trace. ARGV: owner, lease, batch, namespace. Returns keys and sizes of what was dropped.
local expiry, dropped = server_time() + tonumber(ARGV[2]), {}
for _, kind in ipairs({ 'namespace', 'pinned' }) do
  local all = named(kind, ARGV[4])
  for _, key in ipairs(call('ZRANGE', all, 0, tonumber(ARGV[3]) - 1)) do
    if work > 16 * tonumber(ARGV[3]) then break end
    local size = drop(key, ARGV[1], expiry, '')
    if size then
      dropped[#dropped + 1] = key
      dropped[#dropped + 1] = size
    else
      call('ZREM', all, key)
    end
  end
end
return dropped
