"""Expectation: how many deadlines will be missed, as far as it was predicted when requests were routed."""

from streamserve.flowguard.kernels import SLO_SHAPE, TINY


def chance(predicted_s: float, allowed_s: float | None) -> float:
    """That a latency exceeds what is allowed, log-logistic about its prediction as in FlowGuard's `slo` score.

    0 where everything is allowed.
    """
    if allowed_s is None:
        return 0.0
    odds: float = (predicted_s / max(TINY, allowed_s)) ** SLO_SHAPE
    return 1.0 - 1.0 / (1.0 + odds)
