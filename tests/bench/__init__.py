"""The benchmark: what a delivered token costs, beside a floor and beside others. README.md says how to read it."""
