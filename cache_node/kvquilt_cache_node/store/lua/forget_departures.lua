-- Remember these departures no more. ARGV: names.
call('ZREM', DEPARTED, unpack(ARGV))
call('HDEL', DEPARTURES, unpack(ARGV))
