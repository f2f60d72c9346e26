"""Chaos tests: random faults from a seed on whole deployments, and a checker that knows only the protocol."""
