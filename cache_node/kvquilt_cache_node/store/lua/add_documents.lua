-- Let documents hold an object. ARGV: key, namespace, documents. Returns whether there is a row: 0 or 1; 2 if it is one of
-- another namespace.
if not there(ARGV[1]) then return 0 end
if (call('HGET', named('row', ARGV[1]), 'namespace') or '') ~= ARGV[2] then return 2 end
hold_documents(ARGV[1], 3)
return 1
