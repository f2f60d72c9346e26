#!lua flags=allow-oom
-- End a response: write its end entry, add its text to the history, delete its job, and queue the next response.
-- KEYS: log, history, response queue, jobs, open, stored bytes, request
-- An attempt ends its own log if the last id is the expected one. Any other process names no attempt and writes the end
-- as the next attempt. A worker without an attempt names its job; the script does nothing once another worker holds it.
-- Returns {'ended', 1, id, first entry of the log, bytes of the text} (by this call), {'ended', 0, id} (earlier),
-- {'refused', last id}, {'expired'}, or {'long', whether the known entry is in the log}: more than `max_joined` entries or
-- bytes follow it, and to check and join them would block the server. The caller reads them first.
local log, history, queue, jobs, open = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local publish, group = ARGV[1], ARGV[2]
-- Both '' unless an attempt ends its own log.
local expected_id, own_attempt = ARGV[3], ARGV[4]
local nonce, nonces = tonumber(ARGV[5]), tonumber(ARGV[6])
local end_body, settled_head, history_nonce = ARGV[7], ARGV[8], ARGV[9]
local response, conversation = ARGV[10], ARGV[11]
local log_ttl_ms, history_ttl_ms = ARGV[12], ARGV[13]
local feed, control, max_history_entries = ARGV[14], ARGV[15], ARGV[16]
-- Both '' unless a worker without an attempt ends the response.
local owned_job, consumer = ARGV[17], ARGV[18]
local stored, copies = KEYS[6], tonumber(ARGV[19])
-- The text up to an entry of the log, both '' if the caller does not know it; 0: join any number.
local known_id, known_text = ARGV[20], ARGV[21]
local max_joined, max_joined_bytes = tonumber(ARGV[22]), tonumber(ARGV[23])

local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)
local message, id = {}, ''
if last[1] then id = last[1][1] end
local is_open = redis.call('HEXISTS', open, response) == 1
local ended = last[1] and string.sub(last[1][2][2], 1, 1) == 'E'
-- Another program wrote to the log: no readable entry can follow, so the log is dropped once its text is settled.
local unreadable = last[1]
  and (redis.call('XLEN', log) ~= tonumber(string.match(id, '%d+$')) or (ended and is_open))
if unreadable and not is_open then return {'expired'} end
if ended and not unreadable then return {'ended', 0, id} end
if owned_job ~= '' then
  local owner = redis.pcall('XPENDING', jobs, group, owned_job, owned_job, 1)
  if owner.err or not owner[1] or owner[1][2] ~= consumer then return {'refused', id} end
end
if last[1] and expected_id ~= '' and id ~= expected_id then return {'refused', id} end
-- Ids are never issued again for other entries: where the entry is, all before it are as the caller read them.
local is_known = known_id ~= '' and redis.call('XRANGE', log, known_id, known_id)[1] ~= nil
local entries
if max_joined > 0 then
  entries = redis.call('XRANGE', log, is_known and '(' .. known_id or '-', '+', 'COUNT', max_joined + 1)
  local bytes = 0
  for _, entry in ipairs(entries) do bytes = bytes + #entry[2][2] end
  if #entries > max_joined or bytes > max_joined_bytes then return {'long', is_known and 1 or 0} end
else
  entries = redis.call('XRANGE', log, is_known and '(' .. known_id or '-', '+')
end
local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)
if last[1] and not unreadable then
  local attempt, seq = string.match(id, '^(%d+)-(%d+)$')
  if own_attempt ~= '' then
    attempt = own_attempt
  else
    attempt = string.format('%.0f', (math.floor(tonumber(attempt) / nonces) + 1) * nonces + nonce)
  end
  id = string.format('%s-%.0f', attempt, tonumber(seq) + 1)
  redis.call('XADD', log, 'NOMKSTREAM', id, 'e', 'E' .. end_body)
  redis.call('PEXPIRE', log, log_ttl_ms)
  message[1] = '@' .. response .. ' ' .. id .. ' ' .. last[1][1]
  message[2] = 'E' .. end_body
elseif not is_open then
  return {'expired'}
elseif own_attempt ~= '' then
  -- The entries of the attempt are lost: settling would add an empty answer to the history.
  return {'refused', ''}
end

local text = {is_known and known_text or ''}
for _, entry in ipairs(entries) do
  local value = entry[2][2]
  local kind = string.sub(value, 1, 1)
  if kind == 'T' then
    local body = string.sub(value, 2)
    -- As readers do: a body that is not escaped text is left out, or the whole message could not be read.
    local plain = body
    if string.find(body, '\\', 1, true) then
      plain = string.gsub(string.gsub(body, '\\["\\/bfnrt]', ''), '\\u%x%x%x%x', '')
    end
    if not string.find(plain, '["\\]') and not string.find(plain, '[^\32-\255]') then text[#text + 1] = body end
  elseif kind == 'S' then
    text = {}
  end
end
-- The log expires before the history, and a retry needs the request.
local request = first[1] and first[1][2][2] or ''
if string.sub(request, 1, 1) == 'Q' then redis.call('SET', KEYS[7], request, 'PX', history_ttl_ms) end
if unreadable then redis.call('DEL', log) end
local newest = redis.pcall('XREVRANGE', history, '+', '-', 'COUNT', 1)
-- As in submit: an empty stream would reject its first id.
if not newest.err and not newest[1] then redis.call('DEL', history) end
local seq = newest[1] and tonumber(string.match(newest[1][1], '^%d+')) or 0
text = table.concat(text)
-- Another program wrote a key of another type, or an id that none can follow (as in submit): the answer ends all the
-- same, without its text in the history.
if not newest.err and seq <= 9007199254740000 then
  local history_id = string.format('%.0f-%s', seq + 1, history_nonce)
  local settled = 'X' .. settled_head .. ',"text":"' .. text .. '"}'
  redis.call('XADD', history, 'MAXLEN', '~', max_history_entries, history_id, 'e', settled)
  message[#message + 1] = '@c ' .. history_id .. ' ' .. (newest[1] and newest[1][1] or '-')
  message[#message + 1] = settled
end
redis.call('PEXPIRE', history, history_ttl_ms)

local opened = redis.call('HGET', open, response)
local job = opened and string.match(opened, ' (.+)$')
if job then
  redis.call('XACK', jobs, group, job)
  redis.call('XDEL', jobs, job)
end
redis.call('HDEL', open, response)
redis.pcall('LREM', queue, 0, response)
redis.call('PEXPIRE', queue, history_ttl_ms)
local next_response = redis.pcall('LINDEX', queue, 0)
local waiting = type(next_response) == 'string' and redis.call('HGET', open, next_response)
if waiting and not string.match(waiting, ' (.+)$') then
  job = redis.call('XADD', jobs, '*', 'response', next_response, 'conversation', conversation)
  redis.call('HSET', open, next_response, conversation .. ' ' .. job)
  redis.call(publish, control, 'job')
end

if message[1] then redis.call(publish, feed, table.concat(message, '\n')) end
redis.call(publish, control, 'end ' .. response)
if redis.call('EXISTS', stored) == 1 then redis.call('INCRBY', stored, copies * #text) end
return {'ended', 1, id, request, #text}
