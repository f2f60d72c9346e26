-- Store the record of a process until its next heartbeat is overdue.
-- KEYS: presence, record
local presence, record_key = KEYS[1], KEYS[2]
local name, record, ttl_ms = ARGV[2], ARGV[3], ARGV[4]
redis.call('SADD', presence, name)
redis.call('SET', record_key, record, 'PX', ttl_ms)
return 'ok'
