"""The feed: applies what the store publishes to the hub, and reconciles the replicas with the store's logs."""
