"""The tokenwire command line."""
