-- Append consecutive entries of one attempt, if the log's last id is the one that the writer expects.
-- KEYS: log
-- ARGV: publish, expected id, first id, feed, what, head, entries ...
--   what: 'all', or 'head' where the entries are too large to publish.
-- Returns 'ok', or the log's last id ('' where there is no log, or it has its end), having changed nothing.
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not last or string.sub(last[2][2], 1, 1) == 'E' then return '' end
if last[1] ~= ARGV[2] then return last[1] end
redis.call('XADD', KEYS[1], ARGV[3], 'e', ARGV[7])
if ARGV[8] then
  local attempt, seq = string.match(ARGV[3], '(%d+)-(%d+)')
  for i = 8, #ARGV do
    redis.call('XADD', KEYS[1], string.format('%s-%.0f', attempt, seq + i - 7), 'e', ARGV[i])
  end
end
redis.call(ARGV[1], ARGV[4], ARGV[5] == 'all' and table.concat(ARGV, '\n', 6) or ARGV[6])
return 'ok'
