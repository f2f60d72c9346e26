#!lua flags=allow-oom
-- Release an open response of a subject, and add the bytes of its answer. Repeating it has no further effect.
-- KEYS: open responses of the subject, bytes that it stored
-- Returns whether it was open.
local open, stored = KEYS[1], KEYS[2]
local response, size = ARGV[2], ARGV[3]

if redis.call('ZREM', open, response) == 0 then return 0 end
if redis.call('EXISTS', stored) == 1 then redis.call('INCRBY', stored, size) end
return 1
