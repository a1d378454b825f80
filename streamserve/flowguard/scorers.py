"""Scorers: how good each pair is in one respect, 0..1; the README beside this file explains each."""

from collections.abc import Mapping

SCORERS: Mapping[str, float] = {
    "latency": 1.0,
    "slo": 0.5,
    "prefix": 0.02,
    "prefill_batch": 0.02,
    "kv_headroom": 0.05,
    "queue": 0.02,
    "speculation": 0.01,
    "device": 0.02,
}
"""Default weight by name, in the order of what `kernels.score` returns."""
