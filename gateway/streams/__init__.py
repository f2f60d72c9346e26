"""The data that gateways and workers share in Redis: entries, keys, logs, jobs, presence.

Each module contains the encoding and the decoding of its data. Import modules by name
(`gateway.streams.log_entries`), so that core modules do not import a Redis client.
"""
