-- Give holds back. ARGV: owner, keys.
for at = 2, #ARGV do
  if (holder(ARGV[at])) == ARGV[1] then unhold(ARGV[at]) end
end
