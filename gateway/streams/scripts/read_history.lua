#!lua flags=no-writes
-- Read a piece of a history that is bounded in bytes: XRANGE and XREVRANGE count entries, of which one may have 6 MB.
-- KEYS: history
-- ARGV: publish, 'forward' or 'backward', first id ('-' or '+': from an end of the history, '(': after the id), count, bytes
-- Returns 1 if there may be more, otherwise 0, and the entries in the order of reading: `count` at most, and none once they
-- have so many bytes. The first entry of a forward read does not count: the caller has it.
local history, forward, first = KEYS[1], ARGV[2] == 'forward', ARGV[3]
local max_count, max_bytes = tonumber(ARGV[4]), tonumber(ARGV[5])
local entries, bytes = {}, 0
while #entries < max_count and bytes < max_bytes do
  local entry
  if forward then
    entry = redis.call('XRANGE', history, first, '+', 'COUNT', 1)[1]
  else
    entry = redis.call('XREVRANGE', history, first, '-', 'COUNT', 1)[1]
  end
  if not entry then return {0, entries} end
  entries[#entries + 1] = entry
  if not forward or #entries > 1 then
    for _, part in ipairs(entry[2]) do bytes = bytes + #part end
  end
  first = '(' .. entry[1]
end
return {1, entries}
