"""Store to hub: subscribe, load logs, reconcile replicas with the store."""
