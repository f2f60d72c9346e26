"""Browsers on one side, Redis streams on the other. Imports nothing, so that a worker image needs no web server."""
