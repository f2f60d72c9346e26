"""The operating system side: HTTP server, signals, process group, log format."""
