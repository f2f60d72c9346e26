#!lua flags=allow-oom
-- Renew a lease, and keep log, history and response queue from expiring while the provider is silent.
-- KEYS: jobs, log, history, response queue, instructions (if there are any)
-- Returns 'held' with the last id of the log, 'ended', 'expired' or 'lost'.
local jobs, log, history, queue = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, consumer, job = ARGV[2], ARGV[3], ARGV[4]
local log_ttl_ms, history_ttl_ms, instructions_ttl_ms = ARGV[5], ARGV[6], ARGV[7]

-- An error is NOGROUP: the job stream was lost, and this job with it.
local owner = redis.pcall('XPENDING', jobs, group, job, job, 1)
if not owner[1] or owner[1][2] ~= consumer then return 'lost' end
redis.call('XCLAIM', jobs, group, consumer, 0, job, 'JUSTID')
local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)
if not last[1] then return 'expired' end
redis.call('PEXPIRE', log, log_ttl_ms)
redis.call('PEXPIRE', history, history_ttl_ms)
redis.call('PEXPIRE', queue, history_ttl_ms)
if KEYS[5] then redis.call('PEXPIRE', KEYS[5], instructions_ttl_ms) end
if string.sub(last[1][2][2], 1, 1) == 'E' then return 'ended' end
return 'held ' .. last[1][1]
