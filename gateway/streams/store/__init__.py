"""The store client: servers, pipelined scripts, subscriptions, error classes."""
