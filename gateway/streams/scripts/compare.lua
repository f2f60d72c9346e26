-- Which of many logs end elsewhere than the caller thinks.
-- KEYS: logs
-- ARGV: publish, the last id of each as the caller has it ('' where it has none)
-- Returns the positions of those that differ, from 1 on.
local different = {}
for i = 1, #KEYS do
  local last = redis.call('XREVRANGE', KEYS[i], '+', '-', 'COUNT', 1)
  if (last[1] and last[1][1] or '') ~= ARGV[i + 1] then different[#different + 1] = i end
end
return different
