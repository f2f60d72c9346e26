#!lua flags=allow-oom
-- Delete consumers that hold no job and did nothing for some time: a worker that was killed leaves one in each stream.
-- One script, because a job that a consumer receives between the look and the removal would be lost.
-- KEYS: jobs
-- Returns how many were deleted.
local jobs, group, min_idle_ms = KEYS[1], ARGV[2], tonumber(ARGV[3])

-- An error is NOGROUP: the job stream was lost, and its consumers with it.
local consumers = redis.pcall('XINFO', 'CONSUMERS', jobs, group)
if consumers.err then return 0 end
local deleted = 0
for _, info in ipairs(consumers) do
  local fields = {}
  for index = 1, #info, 2 do fields[info[index]] = info[index + 1] end
  local name = fields['name']
  if fields['pending'] == 0 and fields['idle'] >= min_idle_ms then
    redis.call('XGROUP', 'DELCONSUMER', jobs, group, name)
    deleted = deleted + 1
  end
end
return deleted
