-- What there is of chunks, and why objects of them left. ARGV: limit, scope, number of chunks, these, places (chunk and
-- prefix). Returns the rows of each chunk, the most recently used first; for each place the latest departure: reason and
-- namespace, and a time as text, or ''; models. What has expired has left, whether or not its row is there still.
local rows, gone, last, namespaces = {}, {}, 3 + tonumber(ARGV[3]), namespaces_of(ARGV[2])
local ended = {} -- by place
for at = 4, last do
  local keys, used, found = {}, {}, {}
  for _, namespace in ipairs(namespaces) do
    for _, key in ipairs(call('SMEMBERS', named('chunk', text_of(namespace, ARGV[at])))) do keys[#keys + 1] = key end
  end
  for _, key in ipairs(keys) do used[key] = tonumber(call('ZSCORE', USES, key) or '0') end
  table.sort(keys, function(a, b) return used[a] > used[b] or (used[a] == used[b] and a < b) end)
  for _, key in ipairs(keys) do
    if has_expired(key) then
      local place = ARGV[at] .. (call('HGET', named('row', key), 'prefix') or '')
      ended[place] = math.max(ended[place] or 0, tonumber(call('ZSCORE', EXPIRIES, key)))
    elseif #found < tonumber(ARGV[1]) and there(key) then
      found[#found + 1] = row_of(key)
    end
  end
  rows[#rows + 1] = found
end
if ARGV[2] == '' and call('HEXISTS', OBJECTS, 'public') == 0 then namespaces[#namespaces + 1] = 'public' end
for at = last + 1, #ARGV do
  local latest, noted = '', ''
  for _, namespace in ipairs(namespaces) do
    local name = departure_name(ARGV[at], namespace)
    local time, reason = call('ZSCORE', DEPARTED, name), call('HGET', DEPARTURES, name)
    if time and (latest == '' or tonumber(time) > tonumber(latest)) then latest, noted = time, reason or '' end
  end
  local late = ended[ARGV[at]] and time_of(ended[ARGV[at]])
  if late and (latest == '' or late >= tonumber(latest)) then latest, noted = exact(late), 'expired:' end
  gone[#gone + 1] = { noted, latest }
end
return { rows, gone, call('ZRANGE', MODELS, 0, -1) }
