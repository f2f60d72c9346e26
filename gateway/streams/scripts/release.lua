#!lua flags=allow-oom
-- Release a lease early, so that another worker acquires the job immediately.
-- KEYS: jobs
-- Returns 'released' or 'lost'.
local jobs = KEYS[1]
local publish, group, consumer, job = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
-- Longer than every lease: it marks the job as released.
local idle_ms, control, waiting = ARGV[5], ARGV[6], ARGV[7]

-- An error is NOGROUP: the job stream was lost, and this job with it.
local owner = redis.pcall('XPENDING', jobs, group, job, job, 1)
if not owner[1] or owner[1][2] ~= consumer then return 'lost' end
redis.call('XCLAIM', jobs, group, waiting, 0, job, 'IDLE', idle_ms, 'JUSTID')
redis.call(publish, control, 'job')
return 'released'
