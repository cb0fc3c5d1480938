-- Drop rows by key. ARGV: owner, lease, scope, reason, keys. Returns keys and sizes of those that were there.
local expiry, dropped = server_time() + tonumber(ARGV[2]), {}
for at = 5, #ARGV do
  local size = is_owned(ARGV[3], ARGV[at]) and drop(ARGV[at], ARGV[1], expiry, ARGV[4])
  if size then
    dropped[#dropped + 1] = ARGV[at]
    dropped[#dropped + 1] = size
  end
end
return dropped
