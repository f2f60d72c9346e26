"""Tests of the files in deploy/: parsed, rendered, checked against schemas and run."""
