-- Give a sign of life: what a process says of itself, for as long as it says so again and again.
-- KEYS: presence, record
-- ARGV: publish, name, record, ttl
redis.call('SADD', KEYS[1], ARGV[2])
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
return 'ok'
