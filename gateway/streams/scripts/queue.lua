-- Count the open responses of a partition.
-- KEYS: jobs, open
-- Returns {without a worker, with a worker, behind another of their conversation, age of the oldest without a worker
-- in milliseconds}.
local jobs, open, group, waiting, released_ms = KEYS[1], KEYS[2], ARGV[2], ARGV[3], tonumber(ARGV[4])
local length = redis.call('XLEN', jobs)
local opened = redis.call('HLEN', open)
local pending = redis.pcall('XPENDING', jobs, group)
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function age_of(id) return math.max(0, now_ms - tonumber(string.match(id, '^%d+'))) end
-- Without a group no worker has started yet.
local held, delivered, age_ms = 0, '0-0', 0
if not pending.err then
  for _, consumer in ipairs(pending[4] or {}) do
    if string.sub(consumer[1], 1, #waiting) ~= waiting then
      held = held + tonumber(consumer[2])
    else
      local oldest = redis.call('XPENDING', jobs, group, '-', '+', 1, consumer[1])[1]
      -- A released job waits since its release, not since it was queued.
      local released = oldest and oldest[3] >= released_ms
      if oldest then age_ms = math.max(age_ms, released and oldest[3] - released_ms or age_of(oldest[1])) end
    end
  end
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', jobs)) do
    local fields = {}
    for index = 1, #info, 2 do fields[info[index]] = info[index + 1] end
    if fields['name'] == group then delivered = fields['last-delivered-id'] end
  end
end
local ms, seq = string.match(delivered, '^(%d+)-(%d+)$')
local new = redis.call('XRANGE', jobs, ms .. '-' .. string.format('%.0f', tonumber(seq) + 1), '+', 'COUNT', 1)
if new[1] then age_ms = math.max(age_ms, age_of(new[1][1])) end
return {math.max(0, length - held), held, math.max(0, opened - length), age_ms}
