"""Attackers and honest clients on one gateway: `python -m tests.hostile --minutes 60`; see README.md."""
