"""Gymnasium environments over live and simulated lanes."""
