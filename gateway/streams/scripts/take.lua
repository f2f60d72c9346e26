#!lua flags=allow-oom
-- Acquire the leases of jobs that wait, or whose worker was silent for so long. Repeating it returns the same jobs.
-- KEYS: jobs
-- Returns the time in milliseconds and the ids of the jobs that the worker holds now.
local jobs, group, consumer, waiting = KEYS[1], ARGV[2], ARGV[3], ARGV[4]
-- Pairs of the id and the idle milliseconds that its owner must have; '' if the job must be waiting.
local FIRST = 5

local time = redis.call('TIME')
local taken = {string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))}
for i = FIRST, #ARGV, 2 do
  local id, min_idle_ms = ARGV[i], ARGV[i + 1]
  -- An error is NOGROUP: the job stream was lost, and this job with it.
  local owner = redis.pcall('XPENDING', jobs, group, id, id, 1)
  if not owner.err and owner[1] then
    local name, idle_ms = owner[1][2], owner[1][3]
    local is_waiting = string.sub(name, 1, #waiting) == waiting
    if (min_idle_ms == '' and is_waiting) or (min_idle_ms ~= '' and not is_waiting and idle_ms >= tonumber(min_idle_ms)) then
      redis.call('XCLAIM', jobs, group, consumer, 0, id, 'JUSTID')
      name = consumer
    end
    if name == consumer then taken[#taken + 1] = id end
  end
end
return taken
