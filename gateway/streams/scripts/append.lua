-- Append consecutive entries of one attempt, if the last id of the log is the expected one (fencing).
-- KEYS: log
-- Returns 'ok'; otherwise changes nothing and returns the last id ('' if there is no log or it has an end).
local publish, expected_id, first_id, feed = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
-- 'all', or 'head' if the entries are too large to publish.
local published = ARGV[5]
-- ARGV[6] is the head of the feed message; the entries follow from ARGV[7] on.
local HEAD, FIRST = 6, 7

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not last or string.sub(last[2][2], 1, 1) == 'E' then return '' end
if last[1] ~= expected_id then return last[1] end
redis.call('XADD', KEYS[1], first_id, 'e', ARGV[FIRST])
if ARGV[FIRST + 1] then
  local attempt, seq = string.match(first_id, '(%d+)-(%d+)')
  for i = FIRST + 1, #ARGV do
    redis.call('XADD', KEYS[1], string.format('%s-%.0f', attempt, seq + i - FIRST), 'e', ARGV[i])
  end
end
redis.call(publish, feed, published == 'all' and table.concat(ARGV, '\n', HEAD) or ARGV[HEAD])
return 'ok'
