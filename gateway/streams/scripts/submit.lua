-- Accept a message or a retry: its submit key, its conversation entries, the first entry of its log, and its turn.
-- KEYS: submission, conversation, turns, log, jobs, open
-- ARGV: publish, digest, if_busy, most ahead, response, message, message entry or '', its nonce, opened entry,
--       its nonce, log id, queued entry, submission ttl, log ttl, conversation ttl, feed, control, conversation id,
--       most conversation entries
-- Returns {'accepted' or 'duplicate', response, message, responses ahead ...}, {'conflict'}, {'busy', response ahead}
-- or {'full'}.
local known = redis.call('HMGET', KEYS[1], 'digest', 'response', 'message')
local queue = redis.call('LRANGE', KEYS[3], 0, -1)
if known[1] then
  if known[1] ~= ARGV[2] then return {'conflict'} end
  local reply = {'duplicate', known[2], known[3]}
  local behind = {}
  for _, other in ipairs(queue) do
    if other == known[2] then
      for _, ahead in ipairs(behind) do reply[#reply + 1] = ahead end
      break
    end
    behind[#behind + 1] = other
  end
  return reply
end
if #queue > 0 and ARGV[3] == 'reject' then return {'busy', queue[1]} end
if #queue >= tonumber(ARGV[4]) then return {'full'} end

local response = ARGV[5]
redis.call('HSET', KEYS[1], 'digest', ARGV[2], 'response', response, 'message', ARGV[6])
redis.call('PEXPIRE', KEYS[1], ARGV[13])

local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
-- An empty stream remembers its last id and would refuse the first one; the nonces tell the numbers apart.
if not last[1] then redis.call('DEL', KEYS[2]) end
local before = last[1] and last[1][1] or '-'
local seq = last[1] and tonumber(string.match(before, '^%d+')) or 0
local feed = {}
local function happened(entry, nonce)
  seq = seq + 1
  local id = string.format('%.0f-%s', seq, nonce)
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[19], id, 'e', entry)
  feed[#feed + 1] = '@c ' .. id .. ' ' .. before
  feed[#feed + 1] = entry
  before = id
end
-- The message comes second: who has it has the response's opening, too.
happened(ARGV[9], ARGV[10])
if ARGV[7] ~= '' then happened(ARGV[7], ARGV[8]) end
redis.call('PEXPIRE', KEYS[2], ARGV[15])

redis.call('XADD', KEYS[4], ARGV[11], 'e', ARGV[12])
redis.call('PEXPIRE', KEYS[4], ARGV[14])
feed[#feed + 1] = '@' .. response .. ' ' .. ARGV[11] .. ' -'
feed[#feed + 1] = ARGV[12]

local job = ''
if #queue == 0 then
  job = redis.call('XADD', KEYS[5], '*', 'response', response, 'conversation', ARGV[18])
end
redis.call('HSET', KEYS[6], response, ARGV[18] .. ' ' .. job)
redis.call('RPUSH', KEYS[3], response)
redis.call('PEXPIRE', KEYS[3], ARGV[15])

redis.call(ARGV[1], ARGV[16], table.concat(feed, '\n'))
if job ~= '' then redis.call(ARGV[1], ARGV[17], 'job') end
local reply = {'accepted', response, ARGV[6]}
for _, ahead in ipairs(queue) do reply[#reply + 1] = ahead end
return reply
