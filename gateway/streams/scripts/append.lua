-- Append consecutive entries of one attempt, if the log's last id is the one that the writer expects.
-- KEYS: log
-- ARGV: publish, attempt, first seq, sure, expected id, feed, what, head, entries ...
--   sure: '1' where the writer's last append was made on the connection that is still in use. Then no failover can have
--     replaced the log, and to count its entries tells whether it is as expected: they are dense from 1 on.
--   what: 'all', or 'head' where the entries are too large to publish.
-- Returns 'ok', or the log's last id ('' where there is no log, or it has its end), having changed nothing.
if ARGV[4] ~= '1' or redis.call('XLEN', KEYS[1]) ~= ARGV[3] - 1 then
  local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
  if not last[1] or string.sub(last[1][2][2], 1, 1) == 'E' then return '' end
  if last[1][1] ~= ARGV[5] then return last[1][1] end
end
redis.call('XADD', KEYS[1], 'NOMKSTREAM', ARGV[2] .. '-' .. ARGV[3], 'e', ARGV[9])
for i = 10, #ARGV do
  redis.call('XADD', KEYS[1], 'NOMKSTREAM', string.format('%s-%.0f', ARGV[2], ARGV[3] + i - 9), 'e', ARGV[i])
end
redis.call(ARGV[1], ARGV[6], ARGV[7] == 'all' and table.concat(ARGV, '\n', 8) or ARGV[8])
return 'ok'
