-- End a response: its end entry, its text in the conversation, its job gone, and the next turn's job.
-- KEYS: log, conversation, turns, jobs, open
-- ARGV: publish, group, expected id or '', attempt or '', nonce, end entry's body, settled entry's head, its nonce,
--       response, conversation id, log ttl, conversation ttl, feed, control, most conversation entries, job or '', consumer
-- An attempt ends its own log on the condition of append. Anybody else names no attempt, and ends it as the next one;
-- a worker without an attempt names its job, and ends nothing once that is another's.
-- Returns {'ended', 1, id} (1: by this call), {'ended', 0, id} (before), {'refused', last id} or {'expired'}.
local response = ARGV[9]
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local feed, id = {}, ''
local body = ARGV[6]
if last[1] then id = last[1][1] end
if last[1] and string.sub(last[1][2][2], 1, 1) == 'E' then return {'ended', 0, id} end
if ARGV[16] ~= '' then
  local owner = redis.pcall('XPENDING', KEYS[4], ARGV[2], ARGV[16], ARGV[16], 1)
  if owner.err or not owner[1] or owner[1][2] ~= ARGV[17] then return {'refused', id} end
end
if last[1] then
  if ARGV[3] ~= '' and id ~= ARGV[3] then return {'refused', id} end
  local attempt, seq = string.match(id, '^(%d+)-(%d+)$')
  if ARGV[4] ~= '' then
    attempt = ARGV[4]
  else
    attempt = string.format('%.0f', (math.floor(tonumber(attempt) / 1000000000) + 1) * 1000000000 + tonumber(ARGV[5]))
  end
  id = string.format('%s-%.0f', attempt, tonumber(seq) + 1)
  redis.call('XADD', KEYS[1], 'NOMKSTREAM', id, 'e', 'E' .. body)
  redis.call('PEXPIRE', KEYS[1], ARGV[11])
  feed[1] = '@' .. response .. ' ' .. id .. ' ' .. last[1][1]
  feed[2] = 'E' .. body
elseif redis.call('HEXISTS', KEYS[5], response) == 0 then
  return {'expired'}
elseif ARGV[4] ~= '' then
  -- What the attempt wrote is lost: it must not settle as if nothing had been said.
  return {'refused', ''}
end

local text = {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do
  local value = entry[2][2]
  local kind = string.sub(value, 1, 1)
  if kind == 'T' then text[#text + 1] = string.sub(value, 2) elseif kind == 'S' then text = {} end
end
local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
-- As in submit: an empty stream would refuse its first id.
if not newest[1] then redis.call('DEL', KEYS[2]) end
local seq = newest[1] and tonumber(string.match(newest[1][1], '^%d+')) or 0
local turn = string.format('%.0f-%s', seq + 1, ARGV[8])
local settled = 'X' .. ARGV[7] .. ',"text":"' .. table.concat(text) .. '"}'
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[15], turn, 'e', settled)
redis.call('PEXPIRE', KEYS[2], ARGV[12])
feed[#feed + 1] = '@c ' .. turn .. ' ' .. (newest[1] and newest[1][1] or '-')
feed[#feed + 1] = settled

local open = redis.call('HGET', KEYS[5], response)
local job = open and string.match(open, ' (.+)$')
if job then
  redis.call('XACK', KEYS[4], ARGV[2], job)
  redis.call('XDEL', KEYS[4], job)
end
redis.call('HDEL', KEYS[5], response)
redis.call('LREM', KEYS[3], 0, response)
redis.call('PEXPIRE', KEYS[3], ARGV[12])
local following = redis.call('LINDEX', KEYS[3], 0)
local waiting = following and redis.call('HGET', KEYS[5], following)
if waiting and not string.match(waiting, ' (.+)$') then
  job = redis.call('XADD', KEYS[4], '*', 'response', following, 'conversation', ARGV[10])
  redis.call('HSET', KEYS[5], following, ARGV[10] .. ' ' .. job)
  redis.call(ARGV[1], ARGV[14], 'job')
end

redis.call(ARGV[1], ARGV[13], table.concat(feed, '\n'))
redis.call(ARGV[1], ARGV[14], 'end ' .. response)
return {'ended', 1, id}
