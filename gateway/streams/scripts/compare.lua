-- Reconcile: find the logs whose last id differs from the caller's.
-- KEYS: logs
-- ARGV: publish, then the caller's last id of each log ('' if it has none)
-- Returns the 1-based positions of the logs that differ.
local differing = {}
for i = 1, #KEYS do
  local last = redis.pcall('XREVRANGE', KEYS[i], '+', '-', 'COUNT', 1)
  -- A key of another type is one log that cannot be read; the others are compared.
  if not last.err and (last[1] and last[1][1] or '') ~= ARGV[i + 1] then differing[#differing + 1] = i end
end
return differing
