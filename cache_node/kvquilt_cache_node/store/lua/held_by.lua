-- Keys of the objects that a document holds. ARGV: namespace, document.
return call('SMEMBERS', document_of(ARGV[1], ARGV[2]))
