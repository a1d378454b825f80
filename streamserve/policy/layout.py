"""Layout: which numbers an observation of a routing decision has, in which order."""

from streamserve.policy.columns import Column, Columns, Transform, amount, ratio, share
from streamserve.policy.lane_columns import CONTROL, DRAFTS, TRENDS


def _deadline(name: str) -> Column:
    """A predicted time over the time allowed, fine near 1, which is 0 here as is no deadline."""
    return Column(name, Transform.LOG, 4.0, -4.0, 4.0)


PAIRS = Columns(
    (
        share("present"),
        share("heuristic"),
        Column("score", low=-1.0, high=0.0),
        share("split"),
        amount("ttft_s", 10.0),
        amount("tpot_s", 100.0),
        amount("e2e_s", 10.0),
        amount("cost_s", 10.0),
        ratio("ttft_ratio"),
        ratio("tpot_ratio"),
        ratio("e2e_ratio"),
        ratio("cost_ratio"),
        amount("others_s", 10.0),
        share("prefix"),
        _deadline("ttft_to_slo"),
        _deadline("tpot_to_slo"),
        _deadline("others_tpot_to_slo"),
        amount("prefill_queued_tokens", 1 / 64),
        amount("prefill_backlog_s", 10.0),
        amount("prefill_lane_requests"),
        share("prefill_kv_used"),
        ratio("prefill_slowness"),
        amount("prefill_silent_s", 10.0),
        amount("decode_requests"),
        amount("decode_queued_tokens", 1 / 64),
        amount("decode_waiting"),
        amount("decode_running"),
        Column("decode_batch_share", high=2.0),
        share("decode_kv_used"),
        amount("decode_step_s", 100.0),
        ratio("decode_slowness"),
        amount("decode_silent_s", 10.0),
        amount("transfer_s", 100.0),
        share("pressure"),
        share("doubt"),
        *CONTROL,
        *DRAFTS,
        *TRENDS,
    )
)
"""One row per pair. `heuristic` marks what FlowGuard itself would take, `score` is its weighted score less the best.

Ratios are to the least of the pairs; slowness is the price of a prompt token, or of a step of 4 tokens, over that of
the median lane; `others_s` is what the choice costs the requests that are there already. `others_tpot_to_slo`: the pace
of the decode lane as it is without this request, over what this one allows: whether it spoils a lane or finds it so.
"""

REQUEST = Columns(
    (
        amount("prompt_tokens", 1 / 16),
        amount("max_tokens", 1 / 16),
        amount("expected_tokens", 1 / 16),
        amount("waited_s", 10.0),
        share("has_ttft_slo"),
        amount("ttft_slo_s", 10.0),
        Column("ttft_slack", low=-2.0, high=1.0),
        share("has_tpot_slo"),
        amount("tpot_slo_s", 100.0),
        share("splittable"),
        share("continuable"),
        Column("depth_cap", scale=1 / 8, high=4.0),
        Column("priority", scale=1 / 4, low=-4.0, high=4.0),
    )
)
"""The request. `ttft_slack`: share of its time to first token that is left."""

CONTEXT = Columns(
    (
        amount("queued"),
        amount("fast_rate_per_lane", 10.0),
        amount("slow_rate_per_lane", 10.0),
        amount("gap_s", 10.0),
        amount("lanes", 1 / 2),
        share("ready_share"),
        share("doubted_share"),
        share("room_share"),
        amount("pairs", 1 / 2),
        amount("requests_per_lane"),
        amount("most_requests"),
        amount("queued_tokens_per_lane", 1 / 64),
        amount("most_queued_tokens", 1 / 64),
        share("kv_used_mean"),
        Column("step_output_mean", Transform.LOG, 1.0, 0.0, 3.0),
        share("degraded"),
        share("probed"),
    )
)
"""All lanes together: means and extremes, so that the numbers mean the same at any number of lanes."""
