"""Lua scripts, one multi-step operation per file. ARGV[1] is always the name of the publish command."""
