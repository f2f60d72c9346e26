"""Producers: a job becomes the entries of a response log."""
