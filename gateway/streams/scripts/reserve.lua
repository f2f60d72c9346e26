-- Reserve an open response and the bytes of a submit for a subject. Repeating it has no further effect.
-- KEYS: open responses of the subject, bytes that it stored
-- Returns {'reserved'}, {'open'} (it has too many open responses) or {'bytes', milliseconds until its day ends}.
local open, stored = KEYS[1], KEYS[2]
local response, size, max_open, max_bytes = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
-- A response whose release was lost counts for so long.
local open_ttl_ms, day_ms = tonumber(ARGV[6]), ARGV[7]

local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if redis.call('ZSCORE', open, response) then return {'reserved'} end
redis.call('ZREMRANGEBYSCORE', open, '-inf', string.format('%.0f', now_ms))
if max_open > 0 and redis.call('ZCARD', open) >= max_open then return {'open'} end
local used = tonumber(redis.call('GET', stored) or '0')
if max_bytes > 0 and used + size > max_bytes then return {'bytes', redis.call('PTTL', stored)} end

redis.call('ZADD', open, string.format('%.0f', now_ms + open_ttl_ms), response)
redis.call('PEXPIRE', open, open_ttl_ms)
redis.call('INCRBY', stored, size)
if redis.call('PTTL', stored) < 0 then redis.call('PEXPIRE', stored, day_ms) end
return {'reserved'}
