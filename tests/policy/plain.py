"""The numbers of `layout` of a routing decision, gathered in plain Python: what the kernels must say."""

from collections.abc import Iterable, Sequence
from itertools import starmap

from streamserve.flowguard.assessment import Assessment, Place
from streamserve.policy.columns import TINY
from streamserve.policy.lane_columns import control, drafts, trends

Numbers = tuple[float, ...]


def pairs(assessment: Assessment, places: Sequence[Place], heuristic: int) -> list[Numbers]:
    """One row per place. heuristic: the index of FlowGuard's own choice in `places`."""
    predicted = _predicted(assessment, places, heuristic)
    block = assessment.view.block
    prefill, decode = block.prefill.tolist(), block.decode.tolist()
    deadlines = _deadlines(assessment, places)
    work = _work(assessment, [(prefill[row], decode[column]) for row, column in places])
    return [(*first, *second, *third) for first, second, third in zip(predicted, deadlines, work, strict=True)]


def _predicted(assessment: Assessment, places: Sequence[Place], heuristic: int) -> Iterable[Numbers]:
    view = assessment.view
    forecast = view.forecast
    one_ttft = forecast.ttft_s.shape[1] == 1
    ttft_s = [forecast.ttft_s.item(row, 0 if one_ttft else column) for row, column in places]
    tpot_s = [forecast.tpot_s.item(column) for _, column in places]
    e2e_s = list(starmap(forecast.e2e_s.item, places))
    cost_s = list(starmap(forecast.cost_s.item, places))
    score = list(starmap(assessment.total.item, places))
    taken = score[heuristic]
    least = tuple(max(TINY, min(each)) for each in (ttft_s, tpot_s, e2e_s, cost_s))
    prompt_tokens = max(1, view.request.prompt_tokens)
    for index, (row, column) in enumerate(places):
        yield (
            1.0,
            index == heuristic,
            # Among equals FlowGuard takes turns, so another may score a little more than its choice.
            min(0.0, (score[index] - taken) / max(TINY, taken)),
            view.block.split.item(row, column),
            ttft_s[index],
            tpot_s[index],
            e2e_s[index],
            cost_s[index],
            ttft_s[index] / least[0],
            tpot_s[index] / least[1],
            e2e_s[index] / least[2],
            cost_s[index] / least[3],
            cost_s[index] - e2e_s[index],
            1.0 - forecast.uncached_tokens.item(row) / prompt_tokens,
        )


def _deadlines(assessment: Assessment, places: Sequence[Place]) -> Iterable[Numbers]:
    """Predicted times over what the request's deadlines leave of them; 1 without a deadline."""
    view = assessment.view
    forecast, lanes, asked = view.forecast, view.lanes, view.request.slo
    one_ttft = forecast.ttft_s.shape[1] == 1
    ttft_left_s = None if asked.ttft_s is None else max(TINY, asked.ttft_s - view.waited_s)
    decode = view.block.decode.tolist()
    for row, column in places:
        tpot_s, lane = forecast.tpot_s.item(column), decode[column]
        decoding, one_more_s = lanes.decode_requests.item(lane), lanes.tpot_one_more_s.item(lane)
        slower = lanes.slower_s.item(lane) / max(TINY, decoding * one_more_s) if decoding else 0.0
        yield (
            1.0 if ttft_left_s is None else forecast.ttft_s.item(row, 0 if one_ttft else column) / ttft_left_s,
            1.0 if asked.tpot_s is None else tpot_s / asked.tpot_s,
            1.0 if asked.tpot_s is None else tpot_s * (1.0 - slower) / asked.tpot_s,
        )


def _work(assessment: Assessment, pairs: Iterable[tuple[int, int]]) -> Iterable[Numbers]:
    lanes = assessment.view.lanes
    tokens, price_s = lanes.prefill_tokens.tolist(), lanes.prefill_token_s.tolist()
    requests, decoding = lanes.own_requests.tolist(), lanes.decode_requests.tolist()
    waiting, running = lanes.reported_waiting.tolist(), lanes.reported_running.tolist()
    kv_used, silent_s, step_s = lanes.kv_used.tolist(), lanes.silent_s.tolist(), lanes.step_s.tolist()
    transfer_s, pressure = lanes.transfer_s.tolist(), lanes.pressure.tolist()
    suspects = assessment.doubts.suspects.tolist()
    least_step_s = [snapshot.cost.decode_s[0][1] for snapshot in lanes.snapshots]
    typical_price_s, typical_step_s = _median(price_s), _median(least_step_s)
    for prefill, decode in pairs:
        snapshot = lanes.snapshots[decode]
        yield (
            tokens[prefill],
            tokens[prefill] * price_s[prefill],
            requests[prefill],
            kv_used[prefill],
            price_s[prefill] / typical_price_s,
            silent_s[prefill],
            decoding[decode],
            tokens[decode],
            waiting[decode],
            running[decode],
            requests[decode] / max(1, snapshot.max_running),
            kv_used[decode],
            step_s[decode],
            least_step_s[decode] / typical_step_s,
            silent_s[decode],
            0.0 if prefill == decode else transfer_s[decode],
            max(pressure[prefill], pressure[decode]),
            suspects[prefill] or suspects[decode],
            *control(snapshot.depth),
            *drafts(snapshot),
            *trends(snapshot),
        )


def _median(values: Sequence[float]) -> float:
    return max(TINY, sorted(values)[len(values) // 2])


def crowd(assessment: Assessment) -> Numbers:
    """What all lanes make up together."""
    lanes = assessment.view.lanes
    count = len(lanes.lanes)
    requests, tokens = lanes.own_requests.tolist(), lanes.prefill_tokens.tolist()
    return (
        sum(requests) / count,
        max(requests),
        sum(tokens) / count,
        max(tokens),
        sum(lanes.kv_used.tolist()) / count,
        sum(lanes.step_output.tolist()) / count,
    )
