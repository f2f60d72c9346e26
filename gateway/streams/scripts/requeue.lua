#!lua flags=allow-oom
-- Create a new job for an open response that lost its job, if no other response of the conversation is ahead.
-- KEYS: open, jobs, response queue
-- Returns 'queued' (by this call), 'held' (it has its job), 'waiting' (others are ahead) or 'closed'.
local open, jobs, queue = KEYS[1], KEYS[2], KEYS[3]
local publish, response, conversation, control = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local opened = redis.call('HGET', open, response)
if not opened then return 'closed' end
local job = string.match(opened, ' (.+)$')
local entry = job and redis.call('XRANGE', jobs, job, job)[1]
-- A new stream may have issued the id of the lost job again, for another response.
if entry and entry[2][2] == response then return 'held' end

local head = redis.call('LINDEX', queue, 0)
while head and redis.call('HEXISTS', open, head) == 0 do
  redis.call('LPOP', queue)
  head = redis.call('LINDEX', queue, 0)
end
if head and head ~= response then
  -- Without this the end of the response ahead would find the lost job and create no new one.
  redis.call('HSET', open, response, conversation .. ' ')
  for _, queued in ipairs(redis.call('LRANGE', queue, 0, -1)) do
    if queued == response then return 'waiting' end
  end
  redis.call('RPUSH', queue, response)
  return 'waiting'
end
if not head then redis.call('RPUSH', queue, response) end
job = redis.call('XADD', jobs, '*', 'response', response, 'conversation', conversation)
redis.call('HSET', open, response, conversation .. ' ' .. job)
redis.call(publish, control, 'job')
return 'queued'
