"""Simulated lanes: a calibrated model of an engine's steps under virtual time."""
