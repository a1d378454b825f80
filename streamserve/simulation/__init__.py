"""Simulation: the real scheduler, routers and supervisor over simulated lanes in virtual time."""
