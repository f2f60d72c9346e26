-- How many responses of a partition wait for a worker, how many have one, how many are behind another of their
-- conversation, and for how many milliseconds the oldest of the first has waited.
-- KEYS: jobs, open
-- ARGV: publish, group
local length = redis.call('XLEN', KEYS[1])
local open = redis.call('HLEN', KEYS[2])
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[2])
-- No group: no worker has ever been here.
local held, delivered = 0, '0-0'
if not pending.err then
  held = pending[1]
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local fields = {}
    for index = 1, #group, 2 do fields[group[index]] = group[index + 1] end
    if fields['name'] == ARGV[2] then delivered = fields['last-delivered-id'] end
  end
end
local ms, seq = string.match(delivered, '^(%d+)-(%d+)$')
local oldest = redis.call('XRANGE', KEYS[1], ms .. '-' .. string.format('%.0f', tonumber(seq) + 1), '+', 'COUNT', 1)
local waited = 0
if oldest[1] then
  local now = redis.call('TIME')
  local since = tonumber(string.match(oldest[1][1], '^%d+'))
  waited = math.max(0, tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000) - since)
end
return {math.max(0, length - held), held, math.max(0, open - length), waited}
