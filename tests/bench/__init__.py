"""Benchmark: the CPU cost of a delivered token, compared with a null server and with other servers. See README.md."""
