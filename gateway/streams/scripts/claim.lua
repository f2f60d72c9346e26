-- Begin an attempt: write its start entry. This fences every earlier attempt, because Redis rejects smaller ids.
-- KEYS: jobs, log, open
-- Returns {'claimed', id before, id of start}, {'exhausted'}, {'unreadable'}, {'ended'}, {'expired'} or {'lost'}.
local jobs, log, open = KEYS[1], KEYS[2], KEYS[3]
local publish, group, consumer, job = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local nonce, nonces = tonumber(ARGV[5]), tonumber(ARGV[6])
local start_entry = ARGV[7] .. ARGV[8]
local max_attempts, log_ttl_ms, feed, response = tonumber(ARGV[9]), ARGV[10], ARGV[11], ARGV[12]

-- An error is NOGROUP: the job stream was lost, and this job with it.
local owner = redis.pcall('XPENDING', jobs, group, job, job, 1)
if not owner[1] or owner[1][2] ~= consumer then return {'lost'} end

local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 2)
if not last[1] then return {'expired'} end
local id, entry = last[1][1], last[1][2][2]
local attempt, seq = string.match(id, '^(%d+)-(%d+)$')
attempt, seq = tonumber(attempt), tonumber(seq)
-- Ids are dense and an end closes the response, unless another program wrote to the log.
local ended = string.sub(entry, 1, 1) == 'E'
if redis.call('XLEN', log) ~= seq or (ended and redis.call('HEXISTS', open, response) == 1) then
  return {'unreadable'}
end
if ended then
  redis.call('XACK', jobs, group, job)
  redis.call('XDEL', jobs, job)
  redis.call('HDEL', open, response)
  return {'ended'}
end

-- This claim was made before and its reply was lost.
if last[2] and attempt % nonces == nonce and entry == start_entry then
  return {'claimed', last[2][1], id}
end
local number = math.floor(attempt / nonces) + 1
if number > max_attempts then return {'exhausted'} end

local start_id = string.format('%.0f-%.0f', number * nonces + nonce, seq + 1)
redis.call('XADD', log, 'NOMKSTREAM', start_id, 'e', start_entry)
redis.call('PEXPIRE', log, log_ttl_ms)
redis.call(publish, feed, '@' .. response .. ' ' .. start_id .. ' ' .. id .. '\n' .. start_entry)
return {'claimed', id, start_id}
