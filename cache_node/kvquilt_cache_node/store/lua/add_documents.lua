-- Let documents hold an object. ARGV: key, documents. Returns whether there is a row.
if call('HEXISTS', SIZES, ARGV[1]) == 0 then return 0 end
hold_documents(ARGV[1], 2)
return 1
