"""The same logs in the forms that other ecosystems read: each module reads the replicas of the hub."""
