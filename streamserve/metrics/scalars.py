"""Scalars: what TensorBoard shows of requests and lanes while serving; training writes some of these tags too.

docs/tensorboard.md explains each tag.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from streamserve.metrics.policy import Fallback
from streamserve.signals import LaneSignals
from streamserve.types import NO_SLO, Finish, LaneId, Result

Scalars = dict[str, float]


def of_results(results: Sequence[Result], seconds: float) -> Scalars:
    """Rewards, latencies and rates of the requests that ended within a window of so many seconds."""
    finished = [result for result in results if result.finish.by_itself]
    ttft_s = [result.ttft_s for result in finished if result.ttft_s is not None]
    tpot_s = [result.tpot_s for result in finished if result.tpot_s is not None]
    e2e_s = [result.e2e_s for result in finished]
    wishing = [result for result in results if result.slo != NO_SLO]
    good = sum(result.slo_met for result in results)
    scalars = {
        "serve/requests_per_s": len(results) / seconds,
        "serve/goodput_rps": good / seconds,
        "serve/tokens_per_s": sum(result.output_tokens for result in results) / seconds,
    }
    if results:
        scalars["serve/failed_share"] = sum(result.finish is Finish.ERROR for result in results) / len(results)
    if wishing:
        scalars["serve/slo_attainment"] = sum(result.slo_met for result in wishing) / len(wishing)
        scalars["reward/slo"] = scalars["serve/slo_attainment"] - 1.0
    if e2e_s:
        scalars["serve/reward"] = -float(np.mean(e2e_s))
    if ttft_s:
        scalars["reward/ttft"] = -float(np.mean(ttft_s))
        scalars["reward/decode"] = -float(np.mean(e2e_s)) - scalars["reward/ttft"]
    for name, values in (("ttft", ttft_s), ("tpot", tpot_s), ("e2e", e2e_s)):
        scalars |= _percentiles(f"serve/{name}", values)
    return scalars


def of_routes(results: Iterable[Result], lanes: Sequence[LaneId]) -> Scalars:
    """Which lanes, by their places here, decoded the requests that ended, and how evenly."""
    decoded = Counter(result.decision.decode for result in results if result.decision is not None)
    total = decoded.total()
    if not total:
        return {}
    shares = {lane: decoded[lane] / total for lane in lanes}
    entropy = sum(share * math.log(1 / share) for share in shares.values() if share)
    scalars = {f"route/lane_share_{place}": share for place, share in enumerate(shares.values())}
    return scalars | {"route/share_entropy": entropy / math.log(len(lanes)) if len(lanes) > 1 else 1.0}


def of_lanes(before: Mapping[LaneId, LaneSignals], after: Mapping[LaneId, LaneSignals]) -> Scalars:
    """What all lanes together drafted between two looks. A lane that restarted in between counts from 0."""
    drafted = accepted = output = 0
    for lane, now in after.items():
        was = before.get(lane)
        same = was is not None and was.restarts == now.restarts
        drafted += now.draft_tokens_total - (was.draft_tokens_total if was and same else 0)
        accepted += now.accepted_tokens_total - (was.accepted_tokens_total if was and same else 0)
        output += now.output_tokens_total - (was.output_tokens_total if was and same else 0)
    # A request gains one token per step beside its accepted drafts.
    steps = output - accepted
    if output <= 0 or steps <= 0:
        return {}
    scalars = {"spec/depth_mean": drafted / steps, "spec/tokens_per_step": output / steps}
    return scalars | ({"spec/accept_rate": accepted / drafted} if drafted > 0 else {})


def of_policy(
    decisions: int, asked: int, agreed: int, fallbacks: Mapping[Fallback, int], shadow_gain_s: float
) -> Scalars:
    """What a policy did in a window; all are differences of a tally's counts."""
    scalars = {}
    if asked:
        scalars["route/heuristic_agreement"] = agreed / asked
        scalars["route/shadow_gain_s"] = shadow_gain_s / asked
    if decisions:
        scalars["guard/fallback_rate"] = sum(fallbacks.values()) / decisions
        scalars["guard/ood_rate"] = fallbacks.get(Fallback.OUTSIDE, 0) / decisions
    return scalars


def _percentiles(tag: str, values_s: Sequence[float]) -> Scalars:
    if not values_s:
        return {}
    p50, p90, p99 = np.quantile(values_s, (0.5, 0.9, 0.99)).tolist()
    milliseconds = {"mean": float(np.mean(values_s)), "p50": p50, "p90": p90, "p99": p99}
    return {f"{tag}_{name}_ms": 1000 * value for name, value in milliseconds.items()}
