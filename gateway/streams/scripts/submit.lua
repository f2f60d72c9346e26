-- Accept a message or a retry: store its idempotency key, its history entries, the first entry of its log, and queue it.
-- KEYS: submission, history, response queue, log, jobs, open, stored bytes; log and request of the replaced response (if
-- there is one); instructions (if there are any); details: claims and metadata (if they are large)
-- Returns {'accepted' or 'duplicate', response, message, responses ahead ...}, {'conflict'}, {'busy', response ahead},
-- {'full'}, {'closed'} (no id can follow the last one of the history), {'quota', milliseconds until the day ends}, {'expired'} (the instructions),
-- {'foreign'} (the replaced response is none of this conversation) or {'unknown'}.
local submission, history, queue_key, log, jobs, open = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local publish, digest, if_busy, max_ahead = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local response, message = ARGV[5], ARGV[6]
-- message_entry is '' for a retry.
local message_entry, message_nonce, opened_entry, opened_nonce = ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local log_id, queued_entry = ARGV[11], ARGV[12]
local submission_ttl_ms, log_ttl_ms, history_ttl_ms = ARGV[13], ARGV[14], ARGV[15]
local feed, control, conversation, max_history_entries = ARGV[16], ARGV[17], ARGV[18], ARGV[19]
local stored = KEYS[7]
-- The text is '' for a retry, whose instructions are stored already.
local instructions_text, instructions_ttl_ms = ARGV[20], ARGV[21]
local size, max_bytes, day_ms = tonumber(ARGV[22]), tonumber(ARGV[23]), ARGV[24]
-- '1': only look for an earlier call with the same key.
local only_known = ARGV[25]
-- '1': this response replaces another one.
local replaces = ARGV[26] == '1'
-- '' without large ones.
local details_text, details_ttl_ms = ARGV[27], ARGV[28]
local details = details_text ~= '' and KEYS[#KEYS] or nil
local instructions = KEYS[replaces and 10 or 8]
if instructions == details then instructions = nil end

local known = redis.call('HMGET', submission, 'digest', 'response', 'message')
local queue = redis.call('LRANGE', queue_key, 0, -1)
if known[1] then
  if known[1] ~= digest then return {'conflict'} end
  local reply = {'duplicate', known[2], known[3]}
  local passed = {}
  for _, other in ipairs(queue) do
    if other == known[2] then
      for _, ahead in ipairs(passed) do reply[#reply + 1] = ahead end
      break
    end
    passed[#passed + 1] = other
  end
  return reply
end
if only_known == '1' then return {'unknown'} end
if replaces then
  -- A worker would search the whole history for a response that is not in it.
  local first = redis.call('XRANGE', KEYS[8], '-', '+', 'COUNT', 1)
  local replaced = first[1] and first[1][2][2] or redis.call('GET', KEYS[9]) or ''
  -- The conversation is the first field, and no name needs an escape.
  local expected = 'Q{"conversation":"' .. conversation .. '"'
  if string.sub(replaced, 1, #expected) ~= expected then return {'foreign'} end
end
if #queue > 0 and if_busy == 'reject' then return {'busy', queue[1]} end
if #queue >= max_ahead then return {'full'} end
local kept = instructions and redis.call('EXISTS', instructions) == 1
if instructions and not kept then
  if instructions_text == '' then return {'expired'} end
  size = size + #instructions_text
end
local details_kept = details and redis.call('EXISTS', details) == 1
if details and not details_kept then size = size + #details_text end
if max_bytes > 0 and tonumber(redis.call('GET', stored) or '0') + size > max_bytes then
  return {'quota', redis.call('PTTL', stored)}
end

local last = redis.call('XREVRANGE', history, '+', '-', 'COUNT', 1)
local previous = last[1] and last[1][1] or '-'
local seq = last[1] and tonumber(string.match(previous, '^%d+')) or 0
-- Of another program: numbers of Lua are exact up to 2^53, and the answer could not be settled.
if seq > 9007199254740000 then return {'closed'} end

-- The counter is first: it is refused if the store is full.
redis.call('INCRBY', stored, size)
if redis.call('PTTL', stored) < 0 then redis.call('PEXPIRE', stored, day_ms) end
if kept then
  redis.call('PEXPIRE', instructions, instructions_ttl_ms)
elseif instructions then
  redis.call('SET', instructions, instructions_text, 'PX', instructions_ttl_ms)
end
if details_kept then
  redis.call('PEXPIRE', details, details_ttl_ms)
elseif details then
  redis.call('SET', details, details_text, 'PX', details_ttl_ms)
end

redis.call('HSET', submission, 'digest', digest, 'response', response, 'message', message)
redis.call('PEXPIRE', submission, submission_ttl_ms)

-- An empty stream remembers its last id and would reject a first one; the nonces keep the ids distinct.
if not last[1] then redis.call('DEL', history) end
local published = {}
local function add_to_history(entry, nonce)
  seq = seq + 1
  local id = string.format('%.0f-%s', seq, nonce)
  redis.call('XADD', history, 'MAXLEN', '~', max_history_entries, id, 'e', entry)
  published[#published + 1] = '@c ' .. id .. ' ' .. previous
  published[#published + 1] = entry
  previous = id
end
-- The message comes second: a replica that has it also has the opened entry.
add_to_history(opened_entry, opened_nonce)
if message_entry ~= '' then add_to_history(message_entry, message_nonce) end
redis.call('PEXPIRE', history, history_ttl_ms)

redis.call('XADD', log, log_id, 'e', queued_entry)
redis.call('PEXPIRE', log, log_ttl_ms)
published[#published + 1] = '@' .. response .. ' ' .. log_id .. ' -'
published[#published + 1] = queued_entry

local job = ''
if #queue == 0 then
  job = redis.call('XADD', jobs, '*', 'response', response, 'conversation', conversation)
end
redis.call('HSET', open, response, conversation .. ' ' .. job)
redis.call('RPUSH', queue_key, response)
redis.call('PEXPIRE', queue_key, history_ttl_ms)

redis.call(publish, feed, table.concat(published, '\n'))
if job ~= '' then redis.call(publish, control, 'job') end
local reply = {'accepted', response, message}
for _, ahead in ipairs(queue) do reply[#reply + 1] = ahead end
return reply
