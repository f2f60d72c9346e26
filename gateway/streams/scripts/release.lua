-- Give up a lease before its time, so that another worker takes the job over at once.
-- KEYS: jobs
-- ARGV: publish, group, consumer, job, idle milliseconds that exceed every lease, control
-- Returns 'released' or 'lost'.
-- An error here is NOGROUP: the jobs of the partition were lost, this one among them.
local owner = redis.pcall('XPENDING', KEYS[1], ARGV[2], ARGV[4], ARGV[4], 1)
if not owner[1] or owner[1][2] ~= ARGV[3] then return 'lost' end
redis.call('XCLAIM', KEYS[1], ARGV[2], ARGV[3], 0, ARGV[4], 'IDLE', ARGV[5], 'JUSTID')
redis.call(ARGV[1], ARGV[6], 'job')
return 'released'
