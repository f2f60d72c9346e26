"""Workers: acquire jobs, call providers and append their output to response logs."""
