-- Count the open responses of a partition.
-- KEYS: jobs, open
-- Returns {without a worker, with a worker, behind another of their conversation, age of the oldest without a worker
-- in milliseconds}.
local jobs, open, group = KEYS[1], KEYS[2], ARGV[2]
local length = redis.call('XLEN', jobs)
local opened = redis.call('HLEN', open)
local pending = redis.pcall('XPENDING', jobs, group)
-- Without a group no worker has started yet.
local held, delivered = 0, '0-0'
if not pending.err then
  held = pending[1]
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', jobs)) do
    local fields = {}
    for index = 1, #info, 2 do fields[info[index]] = info[index + 1] end
    if fields['name'] == group then delivered = fields['last-delivered-id'] end
  end
end
local ms, seq = string.match(delivered, '^(%d+)-(%d+)$')
local oldest = redis.call('XRANGE', jobs, ms .. '-' .. string.format('%.0f', tonumber(seq) + 1), '+', 'COUNT', 1)
local age_ms = 0
if oldest[1] then
  local now = redis.call('TIME')
  local queued_at_ms = tonumber(string.match(oldest[1][1], '^%d+'))
  age_ms = math.max(0, tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000) - queued_at_ms)
end
return {math.max(0, length - held), held, math.max(0, opened - length), age_ms}
