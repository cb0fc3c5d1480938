-- Give holds back. ARGV: owner, whether the bytes are deleted, keys.
for at = 3, #ARGV do
  if (holder(ARGV[at])) == ARGV[1] then
    unhold(ARGV[at])
    if ARGV[2] == '1' then call('ZREM', GONE, ARGV[at]) end
  end
end
