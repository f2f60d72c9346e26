-- Begin an attempt: its start entry, by which Redis refuses every earlier attempt from now on.
-- KEYS: jobs, log, open
-- ARGV: publish, group, consumer, job, nonce, kind of start, start entry's body, most attempts, log ttl, feed, response
-- Returns {'claimed', id before, id of start}, {'exhausted'}, {'ended'}, {'expired'} or {'lost'}.
-- An error here is NOGROUP: the jobs of the partition were lost, this one among them.
local owner = redis.pcall('XPENDING', KEYS[1], ARGV[2], ARGV[4], ARGV[4], 1)
if not owner[1] or owner[1][2] ~= ARGV[3] then return {'lost'} end

local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 2)
if not last[1] then return {'expired'} end
local id, entry = last[1][1], last[1][2][2]
if string.sub(entry, 1, 1) == 'E' then
  redis.call('XACK', KEYS[1], ARGV[2], ARGV[4])
  redis.call('XDEL', KEYS[1], ARGV[4])
  redis.call('HDEL', KEYS[3], ARGV[11])
  return {'ended'}
end

local attempt, seq = string.match(id, '^(%d+)-(%d+)$')
attempt, seq = tonumber(attempt), tonumber(seq)
-- The reply to this very claim was lost and it is asked again.
if last[2] and attempt % 1000000000 == tonumber(ARGV[5]) and entry == ARGV[6] .. ARGV[7] then
  return {'claimed', last[2][1], id}
end
local number = math.floor(attempt / 1000000000) + 1
if number > tonumber(ARGV[8]) then return {'exhausted'} end

local start = string.format('%.0f-%.0f', number * 1000000000 + tonumber(ARGV[5]), seq + 1)
redis.call('XADD', KEYS[2], 'NOMKSTREAM', start, 'e', ARGV[6] .. ARGV[7])
redis.call('PEXPIRE', KEYS[2], ARGV[9])
redis.call(ARGV[1], ARGV[10], '@' .. ARGV[11] .. ' ' .. start .. ' ' .. id .. '\n' .. ARGV[6] .. ARGV[7])
return {'claimed', id, start}
