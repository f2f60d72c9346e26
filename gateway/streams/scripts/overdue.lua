-- List the jobs of a partition that no worker takes, and those whose worker missed renewals.
-- KEYS: jobs
-- Returns {overdue, silent}: fields of entries. Overdue jobs wait, or are held by a silent worker, for longer than the
-- deadline; a silent worker has not renewed its lease for `silent_ms` at least.
local jobs, group, waiting, released_ms = KEYS[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local deadline_ms, silent_ms, limit = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
-- Of the waiting jobs of a model: released ones are old, but wait only since their release.
local MAX_PAGES = 10

local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function age_of(id) return now_ms - tonumber(string.match(id, '^%d+')) end
local overdue, silent = {}, {}
local function add(list, id)
  local entry = redis.call('XRANGE', jobs, id, id)[1]
  if entry and #list < limit then list[#list + 1] = entry[2] end
end

local function look_at_waiting(name)
  local first = '-'
  for _ = 1, MAX_PAGES do
    local page = redis.call('XPENDING', jobs, group, first, '+', limit, name)
    for _, item in ipairs(page) do
      local released = item[3] >= released_ms
      if released and item[3] - released_ms >= deadline_ms then add(overdue, item[1]) end
      if not released and age_of(item[1]) >= deadline_ms then add(overdue, item[1]) end
    end
    local last = page[#page]
    if #page < limit or age_of(last[1]) < deadline_ms then return end
    local ms, seq = string.match(last[1], '^(%d+)-(%d+)$')
    first = ms .. '-' .. string.format('%.0f', tonumber(seq) + 1)
  end
end

local function look_at_worker(name)
  for _, item in ipairs(redis.call('XPENDING', jobs, group, 'IDLE', math.min(silent_ms, deadline_ms), '-', '+', limit, name)) do
    -- An older worker releases a job under its own name.
    local idle_ms = item[3] >= released_ms and item[3] - released_ms or item[3]
    if idle_ms >= deadline_ms then
      add(overdue, item[1])
    elseif idle_ms >= silent_ms and item[3] < released_ms then
      add(silent, item[1])
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
      if consumer['pending'] > 0 then
        local is_waiting = string.sub(consumer['name'], 1, #waiting) == waiting
        if is_waiting then look_at_waiting(consumer['name']) else look_at_worker(consumer['name']) end
      end
    end
  end
end
local ms, seq = string.match(delivered, '^(%d+)-(%d+)$')
local after = ms .. '-' .. string.format('%.0f', tonumber(seq) + 1)
for _, entry in ipairs(redis.call('XRANGE', jobs, after, '+', 'COUNT', limit)) do
  if age_of(entry[1]) >= deadline_ms and #overdue < limit then overdue[#overdue + 1] = entry[2] end
end
return {overdue, silent}
