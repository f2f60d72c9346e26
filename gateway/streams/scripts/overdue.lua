-- List the jobs of a partition that no worker takes, and those whose worker missed renewals.
-- KEYS: jobs
-- Returns {overdue, silent}: fields of entries. Overdue jobs wait, or are held by a silent worker, for longer than the
-- deadline of their model; a silent worker has not renewed its lease for `silent_ms` at least.
local jobs, group, waiting, released_ms = KEYS[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local default_ms, silent_ms, limit, log_prefix = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
-- Pairs: a model, as it is encoded in requests, and its own deadline in milliseconds.
local FIRST_MODEL = 9
-- Of waiting jobs: released ones are old, but wait only since their release.
local MAX_PAGES = 10

local deadlines, min_ms = {}, default_ms
for i = FIRST_MODEL, #ARGV, 2 do
  deadlines[ARGV[i]] = tonumber(ARGV[i + 1])
  min_ms = math.min(min_ms, deadlines[ARGV[i]])
end

-- The log is of the same slot as the jobs: its key has the same hash tag.
local function deadline_of(fields)
  if #ARGV < FIRST_MODEL then return default_ms end
  for i = 1, #fields, 2 do
    if fields[i] == 'response' and string.match(fields[i + 1], '^r%d%d%w+$') then
      local log = redis.pcall('XRANGE', log_prefix .. fields[i + 1], '-', '+', 'COUNT', 1)
      local value = not log.err and log[1] and log[1][2][2] or ''
      -- No text in it can contain this pattern, because quotes in texts are escaped.
      return deadlines[string.match(value, '^Q.-"model":"(.-[^\\])"') or ''] or default_ms
    end
  end
  return default_ms
end

local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function age_of(id) return now_ms - tonumber(string.match(id, '^%d+')) end
local function next_to(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return ms .. '-' .. string.format('%.0f', tonumber(seq) + 1)
end
local function fields_of(id)
  local entry = redis.call('XRANGE', jobs, id, id)[1]
  return entry and entry[2]
end
local overdue, silent = {}, {}
local function add(list, fields)
  if #list < limit then list[#list + 1] = fields end
end

-- `model_ms`: the deadline of all jobs of this consumer; nil: their models are not known yet.
local function look_at_waiting(name, model_ms)
  local first, least_ms = '-', model_ms or min_ms
  for _ = 1, MAX_PAGES do
    local page = redis.call('XPENDING', jobs, group, first, '+', limit, name)
    for _, item in ipairs(page) do
      local waited_ms = item[3] >= released_ms and item[3] - released_ms or age_of(item[1])
      if waited_ms >= least_ms then
        local fields = fields_of(item[1])
        if fields and waited_ms >= (model_ms or deadline_of(fields)) then add(overdue, fields) end
      end
    end
    local last = page[#page]
    if #page < limit or age_of(last[1]) < least_ms then return end
    first = next_to(last[1])
  end
end

local function look_at_worker(name)
  for _, item in ipairs(redis.call('XPENDING', jobs, group, 'IDLE', math.min(silent_ms, min_ms), '-', '+', limit, name)) do
    -- An older worker releases a job under its own name.
    local idle_ms = item[3] >= released_ms and item[3] - released_ms or item[3]
    local fields = fields_of(item[1])
    if fields and idle_ms >= min_ms and idle_ms >= deadline_of(fields) then
      add(overdue, fields)
    elseif fields and idle_ms >= silent_ms and item[3] < released_ms then
      add(silent, fields)
    end
  end
end

local delivered = '0-0'
-- Without a group no worker has started yet.
local groups = redis.pcall('XINFO', 'GROUPS', jobs)
if groups.err then return {overdue, silent} end
for _, info in ipairs(groups) do
  local fields = {}
  for i = 1, #info, 2 do fields[info[i]] = info[i + 1] end
  if fields['name'] == group then
    delivered = fields['last-delivered-id']
    for _, one in ipairs(redis.call('XINFO', 'CONSUMERS', jobs, group)) do
      local consumer = {}
      for i = 1, #one, 2 do consumer[one[i]] = one[i + 1] end
      local name = consumer['name']
      if consumer['pending'] == 0 then
        -- Nothing to look at.
      elseif name == waiting then
        look_at_waiting(name)
      elseif string.sub(name, 1, #waiting) == waiting then
        look_at_waiting(name, deadlines[string.sub(name, #waiting + 2)] or default_ms)
      else
        look_at_worker(name)
      end
    end
  end
end
local first = next_to(delivered)
for _ = 1, MAX_PAGES do
  local page = redis.call('XRANGE', jobs, first, '+', 'COUNT', limit)
  for _, entry in ipairs(page) do
    local age_ms = age_of(entry[1])
    if age_ms >= min_ms and age_ms >= deadline_of(entry[2]) then add(overdue, entry[2]) end
  end
  local last = page[#page]
  if #page < limit or #overdue >= limit or age_of(last[1]) < min_ms then break end
  first = next_to(last[1])
end
return {overdue, silent}
