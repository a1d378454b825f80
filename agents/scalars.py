"""Scalars: what TensorBoard shows of a training run beside what Stable-Baselines3 writes."""

from collections.abc import Mapping, Sequence

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from agents.recorder import Record, merged
from streamserve.types import Result

PERCENTILES = (50, 99)


class Scalars(BaseCallback):
    """Writes, with every rollout, means over its steps and percentiles over the requests that ended in it.

    weights: of the reward's terms, `scale` among them.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self._weights = weights

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        record = merged(self.training_env.env_method("take"))
        for tag, value in scalars(record, self._weights).items():
            self.logger.record(tag, value)


def scalars(record: Record, weights: Mapping[str, float]) -> dict[str, float]:
    """Tag -> value. weights: by term of the cost, `failure` for failures, and `scale`."""
    steps = max(1, record.steps)
    by_term = {"ttft": "ttft", "decode": "decode", "slo": "slo", "failure": "failures"}
    tags = {
        f"reward/{term}": -weights[term] * record.costs[cost] / weights["scale"] / steps
        for term, cost in by_term.items()
    }
    tags["reward/own"] = sum(tags.values())
    if record.twin_reward:
        tags["reward/twin"] = record.twin_reward / steps
        tags["reward/twin_gain"] = (record.reward - record.shaping) / steps
        tags["reward/shaping"] = record.shaping / steps
    tags["route/heuristic_agreement"] = record.agreed / steps
    tags["route/invalid_actions"] = record.invalid / steps
    if record.drafted:
        # Every step gives a request one token, and one more for each draft token that was accepted.
        steps_of_requests = max(1, record.written - record.accepted)
        tags["spec/depth_mean"] = record.drafted / steps_of_requests
        tags["spec/accept_rate"] = record.accepted / record.drafted
        tags["spec/tokens_per_step"] = record.written / steps_of_requests
    return tags | _latencies([result for _, result in record.results]) | _shares([place for place, _ in record.results])


def _latencies(results: Sequence[Result]) -> dict[str, float]:
    if not results:
        return {}
    finished = [each for each in results if each.finish.by_itself]
    samples = {
        "ttft": [each.ttft_s for each in finished if each.ttft_s is not None],
        "tpot": [each.tpot_s for each in finished if each.tpot_s is not None],
        "e2e": [each.e2e_s for each in finished],
    }
    tags = {
        f"serve/{name}_p{percentile}_ms": 1000 * float(np.percentile(values, percentile))
        for name, values in samples.items()
        if values
        for percentile in PERCENTILES
    }
    tags["serve/failed_share"] = 1 - len(finished) / len(results)
    tags["serve/slo_attainment"] = sum(each.slo_met for each in results) / len(results)
    decisions = [each.decision for each in results if each.decision is not None]
    tags["route/disaggregated_share"] = sum(each.disaggregated for each in decisions) / max(1, len(decisions))
    tags["spec/capped_share"] = sum(each.max_depth is not None for each in decisions) / max(1, len(decisions))
    return tags


def _shares(places: Sequence[int]) -> dict[str, float]:
    """By place of the lane in its configuration, the share of the requests that it decoded."""
    ran = [place for place in places if place >= 0]
    if not ran:
        return {}
    shares = np.bincount(ran) / len(ran)
    known = shares[shares > 0]
    tags = {f"route/lane_share_{place}": float(share) for place, share in enumerate(shares)}
    # Against the lanes that were seen: 1 = all alike, 0 = all on one.
    tags["route/share_entropy"] = float(-(known * np.log(known)).sum() / np.log(max(2, len(shares))))
    return tags
