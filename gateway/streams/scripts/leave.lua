#!lua flags=allow-oom
-- Release every job of a consumer, and delete the consumer.
-- One script, because a job that the consumer acquires between the look and the removal would be lost.
-- KEYS: jobs
-- Returns how many jobs were released.
local jobs = KEYS[1]
local publish, group, consumer, idle_ms, control, waiting = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

-- An error is NOGROUP: the job stream was lost, and its consumers with it.
local released = 0
local pending = redis.pcall('XPENDING', jobs, group, '-', '+', 100, consumer)
while not pending.err and pending[1] do
  for _, item in ipairs(pending) do
    redis.call('XCLAIM', jobs, group, waiting, 0, item[1], 'IDLE', idle_ms, 'JUSTID')
    -- XCLAIM skips a deleted entry, in some versions without removing it from the list.
    if not redis.call('XRANGE', jobs, item[1], item[1])[1] then redis.call('XACK', jobs, group, item[1]) end
    released = released + 1
  end
  pending = redis.pcall('XPENDING', jobs, group, '-', '+', 100, consumer)
end
if pending.err then return 0 end
redis.call('XGROUP', 'DELCONSUMER', jobs, group, consumer)
if released > 0 then redis.call(publish, control, 'job') end
return released
