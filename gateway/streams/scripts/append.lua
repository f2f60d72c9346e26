-- Append consecutive entries of one attempt, if the log's last id is the one that the writer expects.
-- KEYS: log
-- ARGV: publish, attempt, first seq, expected id, feed, what, head, entries ...
--   what: 'all', or 'head' where the entries are too large to publish.
-- Returns 'ok', or the log's last id ('' where there is no log, or it has its end), having changed nothing.
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if not last[1] or string.sub(last[1][2][2], 1, 1) == 'E' then return '' end
if last[1][1] ~= ARGV[4] then return last[1][1] end
redis.call('XADD', KEYS[1], 'NOMKSTREAM', ARGV[2] .. '-' .. ARGV[3], 'e', ARGV[8])
for i = 9, #ARGV do
  redis.call('XADD', KEYS[1], 'NOMKSTREAM', string.format('%s-%.0f', ARGV[2], ARGV[3] + i - 8), 'e', ARGV[i])
end
redis.call(ARGV[1], ARGV[5], ARGV[6] == 'all' and table.concat(ARGV, '\n', 7) or ARGV[7])
return 'ok'
