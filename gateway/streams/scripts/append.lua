-- Append consecutive entries of one attempt, if the log's last id is the one that the writer expects.
-- KEYS: log
-- ARGV: publish, expected id, attempt, first seq, feed, response, most bytes to publish, entries ...
-- Returns 'ok', or the log's last id ('' where there is no log, or it has its end), having changed nothing.
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if not last[1] or string.sub(last[1][2][2], 1, 1) == 'E' then return '' end
if last[1][1] ~= ARGV[2] then return last[1][1] end

local seq, size = tonumber(ARGV[4]), 0
for i = 8, #ARGV do
  redis.call('XADD', KEYS[1], 'NOMKSTREAM', string.format('%s-%.0f', ARGV[3], seq), 'e', ARGV[i])
  seq = seq + 1
  size = size + #ARGV[i]
end
local head = '@' .. ARGV[6] .. ' ' .. ARGV[3] .. '-' .. ARGV[4] .. ' ' .. ARGV[2]
if size <= tonumber(ARGV[7]) then head = head .. '\n' .. table.concat(ARGV, '\n', 8) end
redis.call(ARGV[1], ARGV[5], head)
return 'ok'
