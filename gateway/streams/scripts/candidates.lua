#!lua flags=allow-oom
-- List jobs that a worker may take: waiting ones of the models that it serves, and those of silent workers.
-- KEYS: jobs
-- Jobs without a worker are held by consumers that no process is: new and released ones by `waiting`, from where this
-- script moves them to `waiting:<model>`. So a model without workers hides no job of another one.
-- Returns {id, owner ('' of a waiting job), idle milliseconds, fields of the entry, subject} of each, or an error.
local jobs, group, min_idle_ms, limit = KEYS[1], ARGV[2], ARGV[3], ARGV[4]
local waiting, log_prefix = ARGV[5], ARGV[6]
-- The models that the worker serves, as they are encoded in requests; none: all.
local FIRST_MODEL = 7
-- Of jobs that are moved by one call: a script must not block the server for long.
local MAX_MOVED = 200

local function fields_of(id)
  local entry = redis.call('XRANGE', jobs, id, id)[1]
  -- Another program deleted the entry.
  if not entry then redis.call('XACK', jobs, group, id) end
  return entry and entry[2]
end

local function value_of(fields, name)
  for i = 1, #fields, 2 do
    if fields[i] == name then return fields[i + 1] end
  end
end

-- Return a field of the request of a job. No text in it can contain this pattern, because quotes in texts are escaped.
-- Names of claims and metadata could, but they come after the other fields.
-- The log is of the same slot as the jobs: its key has the same hash tag.
local function request_field(fields, name)
  local response = value_of(fields, 'response')
  if not response or not string.match(response, '^r%d%d%w+$') then return '' end
  local log = redis.pcall('XRANGE', log_prefix .. response, '-', '+', 'COUNT', 1)
  local value = not log.err and log[1] and log[1][2][2] or ''
  local last = math.min(
    string.find(value, ',"claims":{', 1, true) or #value, string.find(value, ',"metadata":{', 1, true) or #value
  )
  return string.match(string.sub(value, 1, last), '^Q.-"' .. name .. '":"(.-[^\\])"') or ''
end

local new = redis.pcall('XREADGROUP', 'GROUP', group, waiting, 'COUNT', MAX_MOVED, 'STREAMS', jobs, '>')
if new and new.err then return new end
for _, item in ipairs(redis.call('XPENDING', jobs, group, '-', '+', MAX_MOVED, waiting)) do
  local fields = fields_of(item[1])
  if fields then
    local owner = waiting .. ':' .. request_field(fields, 'model')
    redis.call('XCLAIM', jobs, group, owner, 0, item[1], 'IDLE', item[3], 'JUSTID')
  end
end

local served = {[''] = true}
for i = FIRST_MODEL, #ARGV do served[ARGV[i]] = true end
local found = {}
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', jobs, group)) do
  local consumer = {}
  for i = 1, #info, 2 do consumer[info[i]] = info[i + 1] end
  local name = consumer['name']
  local pending, owner = {}, ''
  local is_waiting = string.sub(name, 1, #waiting) == waiting
  if consumer['pending'] == 0 or name == waiting then
    pending = {}
  elseif not is_waiting then
    -- Not XAUTOCLAIM: it examines ten times COUNT jobs and stops, so leased jobs would hide a lost one.
    pending = redis.call('XPENDING', jobs, group, 'IDLE', min_idle_ms, '-', '+', limit, name)
    owner = name
  elseif #ARGV < FIRST_MODEL or served[string.sub(name, #waiting + 2)] then
    pending = redis.call('XPENDING', jobs, group, '-', '+', limit, name)
  end
  for _, item in ipairs(pending) do
    local fields = fields_of(item[1])
    if fields then found[#found + 1] = {item[1], owner, item[3], fields, request_field(fields, 'subject')} end
  end
end
return found
