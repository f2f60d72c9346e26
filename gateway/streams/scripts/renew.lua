-- Keep a job for another lease, and its logs from expiring while the provider is silent.
-- KEYS: jobs, log, conversation, turns
-- ARGV: publish, group, consumer, job, log ttl, conversation ttl
-- Returns 'held', 'ended', 'expired' or 'lost'.
-- An error here is NOGROUP: the jobs of the partition were lost, this one among them.
local owner = redis.pcall('XPENDING', KEYS[1], ARGV[2], ARGV[4], ARGV[4], 1)
if not owner[1] or owner[1][2] ~= ARGV[3] then return 'lost' end
redis.call('XCLAIM', KEYS[1], ARGV[2], ARGV[3], 0, ARGV[4], 'JUSTID')
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
if not last[1] then return 'expired' end
redis.call('PEXPIRE', KEYS[2], ARGV[5])
redis.call('PEXPIRE', KEYS[3], ARGV[6])
redis.call('PEXPIRE', KEYS[4], ARGV[6])
if string.sub(last[1][2][2], 1, 1) == 'E' then return 'ended' end
return 'held'
