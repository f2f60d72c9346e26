-- Give an open response whose job was lost a new one, if it is its turn.
-- KEYS: open, jobs, turns
-- ARGV: publish, response, conversation id, control
-- Returns 'queued' (now), 'held' (has its job), 'waiting' (others are ahead) or 'closed'.
local open = redis.call('HGET', KEYS[1], ARGV[2])
if not open then return 'closed' end
local job = string.match(open, ' (.+)$')
local entry = job and redis.call('XRANGE', KEYS[2], job, job)[1]
-- Its id may have been given to another one since.
if entry and entry[2][2] == ARGV[2] then return 'held' end

local head = redis.call('LINDEX', KEYS[3], 0)
while head and redis.call('HEXISTS', KEYS[1], head) == 0 do
  redis.call('LPOP', KEYS[3])
  head = redis.call('LINDEX', KEYS[3], 0)
end
if head and head ~= ARGV[2] then
  -- The lost job is forgotten, or the end of the response ahead would take this one for served.
  redis.call('HSET', KEYS[1], ARGV[2], ARGV[3] .. ' ')
  local queued = redis.call('LRANGE', KEYS[3], 0, -1)
  for _, other in ipairs(queued) do
    if other == ARGV[2] then return 'waiting' end
  end
  redis.call('RPUSH', KEYS[3], ARGV[2])
  return 'waiting'
end
if not head then redis.call('RPUSH', KEYS[3], ARGV[2]) end
job = redis.call('XADD', KEYS[2], '*', 'response', ARGV[2], 'conversation', ARGV[3])
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3] .. ' ' .. job)
redis.call(ARGV[1], ARGV[4], 'job')
return 'queued'
