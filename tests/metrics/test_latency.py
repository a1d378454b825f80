"""Latencies per lane, and the engine that shows them."""

from collections.abc import Mapping

from streamserve.metrics.latency import EngineWithLatencies, LatencyAverages
from streamserve.protocols import Engine
from streamserve.signals import Averages, DepthControl, DepthMode, LaneSignals
from streamserve.types import Finish, LaneId
from tests.fakes import make_request, pair, started
from tests.metrics.samples import A, B, decision, full_lane, result


class TestAverages:
    def test_ttft_is_the_prefill_lanes_and_tpot_the_decode_lanes(self) -> None:
        averages = LatencyAverages()
        averages.learn(result())
        assert averages.of(A) == (Averages(3.0, 3.0), Averages())
        assert averages.of(B) == (Averages(), Averages(0.1, 0.1))

    def test_the_fast_one_forgets_sooner(self) -> None:
        averages = LatencyAverages()
        averages.learn(result())
        averages.learn(result(arrived_s=40.0, first_token_s=41.0, dispatched_s=40.0, finished_s=44.0))
        ttft, _ = averages.of(A)
        assert ttft.fast_s is not None and ttft.slow_s is not None
        assert 1.0 < ttft.fast_s < 1.2
        assert 1.8 < ttft.slow_s < 2.0

    def test_what_says_nothing_about_the_lane_is_left_out(self) -> None:
        averages = LatencyAverages()
        averages.learn(result(decision=None, first_token_s=None))
        averages.learn(result(first_token_s=None, output_tokens=0, finish=Finish.ERROR))
        # The output was begun by lanes of an earlier attempt.
        averages.learn(result(first_token_s=10.5))
        assert averages.of(A) == averages.of(B) == (Averages(), Averages())

    def test_an_aborted_request_has_a_ttft_only(self) -> None:
        averages = LatencyAverages()
        averages.learn(result(finish=Finish.ABORT, decision=decision(A, A)))
        assert averages.of(A) == (Averages(3.0, 3.0), Averages())


class Still:
    """An engine whose snapshot is one and the same."""

    def __init__(self) -> None:
        self.snapshot = full_lane(B, ttft_s=Averages(), tpot_s=Averages())

    def signals(self) -> Mapping[LaneId, LaneSignals]:
        return {B: self.snapshot}


class TestEngine:
    async def test_it_shows_the_latencies_and_hands_on_all_else(self) -> None:
        from streamserve.pipeserve.pipeserve import PipeServe

        lanes = await started("a", "b")
        averages = LatencyAverages()
        engine: Engine = EngineWithLatencies(PipeServe(lanes), averages)
        averages.learn(result())
        assert engine.signals()[A].ttft_s == Averages(3.0, 3.0)
        assert engine.signals()[B].tpot_s == Averages(0.1, 0.1)
        stream = engine.stream(make_request(max_tokens=2), pair("a", "b"), lambda: None)
        assert sum([len(chunk.token_ids) async for chunk in stream]) == 2
        control = DepthControl(DepthMode.FIXED, 2)
        await engine.control(A, control, 5.0)
        assert engine.signals()[A].depth == control

    def test_an_unchanged_snapshot_is_copied_once(self) -> None:
        averages = LatencyAverages()
        still = Still()
        engine = EngineWithLatencies(still, averages)  # type: ignore[arg-type]
        first = engine.signals()[B]
        assert engine.signals()[B] is first
        averages.learn(result())
        second = engine.signals()[B]
        assert second.tpot_s == Averages(0.1, 0.1) and engine.signals()[B] is second
        still.snapshot = full_lane(B, running=9)
        assert engine.signals()[B].running == 9 and engine.signals()[B].tpot_s == Averages(0.1, 0.1)
