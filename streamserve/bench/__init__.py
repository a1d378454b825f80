"""Measurements: each a command that anybody can run."""
