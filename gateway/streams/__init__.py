"""The contract between the gateway and its workers: what is written to Redis, and how.

Code that writes an entry and code that reads it stand next to each other here. Callers name the module
(`gateway.streams.log_entries`), so a core module that needs an entry never pulls in a Redis client.
"""
