"""Every multi-step operation on Redis, one Lua script a file. ARGV[1] is always the publish command of the server."""
