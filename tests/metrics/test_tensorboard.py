"""What the serving process writes for TensorBoard, read back with TensorBoard's own reader."""

import asyncio
import builtins
import re
from pathlib import Path
from typing import Any

import pytest

from streamserve.errors import SetupError
from streamserve.metrics.policy import Fallback, PolicyTally
from streamserve.metrics.scalars import of_lanes, of_policy, of_results, of_routes
from streamserve.metrics.tensorboard import TensorBoardLog
from streamserve.types import Finish, LaneId, Slo
from streamserve.virtual import run
from tests.metrics.samples import A, B, Source, full_lane, result, signals

GLOSSARY = (Path(__file__).resolve().parents[2] / "docs" / "tensorboard.md").read_text()
DESCRIBED = set(re.findall(r"^\| `([a-z]+/[A-Za-z0-9_]+)` \|", GLOSSARY, re.MULTILINE))


def written(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) of every event in the folder's one file."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    (path,) = folder.iterdir()
    values: dict[str, list[tuple[int, float]]] = {}
    for record in RawEventFileLoader(str(path)).Load():
        event = Event.FromString(record)
        for value in event.summary.value:
            values.setdefault(value.tag, []).append((event.step, value.simple_value))
    return values


class TestScalars:
    def test_latencies_and_rewards(self) -> None:
        # Two of 4 s with a first token after 3 s, met and missed; an error; one without a wish.
        results = [
            result(),
            result(slo=Slo(ttft_s=2.0)),
            result(finish=Finish.ERROR, finished_s=99.0),
            result(slo=Slo(), finished_s=18.0, output_tokens=21),
        ]
        shown = of_results(results, 10.0)
        assert shown["serve/requests_per_s"] == 0.4
        assert shown["serve/goodput_rps"] == 0.2
        assert shown["serve/tokens_per_s"] == 5.4
        assert shown["serve/failed_share"] == 0.25
        assert shown["serve/slo_attainment"] == pytest.approx(1 / 3)
        assert shown["serve/reward"] == pytest.approx(-16 / 3)
        assert shown["reward/ttft"] + shown["reward/decode"] == pytest.approx(shown["serve/reward"])
        assert shown["serve/ttft_p50_ms"] == pytest.approx(3000)
        assert shown["serve/e2e_p50_ms"] == pytest.approx(4000)
        assert shown["serve/tpot_mean_ms"] == pytest.approx((100 + 100 + 250) / 3)

    def test_an_empty_window_has_rates_and_no_latencies(self) -> None:
        assert set(of_results([], 1.0)) == {"serve/requests_per_s", "serve/goodput_rps", "serve/tokens_per_s"}
        assert of_routes([], [A, B]) == {}

    def test_shares_of_the_lanes(self) -> None:
        even = of_routes([result(), result(decision=None)], [A, B])
        assert (even["route/lane_share_0"], even["route/lane_share_1"], even["route/share_entropy"]) == (0, 1, 0)

    def test_drafts_between_two_looks(self) -> None:
        before = {A: full_lane(draft_tokens_total=10, accepted_tokens_total=5, output_tokens_total=100)}
        after = {A: full_lane(draft_tokens_total=50, accepted_tokens_total=25, output_tokens_total=140)}
        shown = of_lanes(before, after)
        assert shown == {"spec/depth_mean": 2.0, "spec/tokens_per_step": 2.0, "spec/accept_rate": 0.5}
        assert of_lanes(after, after) == {}

    def test_a_lane_that_restarted_counts_from_0(self) -> None:
        before = {A: full_lane(output_tokens_total=1000, restarts=0)}
        after = {A: full_lane(draft_tokens_total=30, accepted_tokens_total=10, output_tokens_total=40, restarts=1)}
        assert of_lanes(before, after)["spec/depth_mean"] == 1.0

    def test_what_a_policy_did(self) -> None:
        shown = of_policy(20, 10, 9, {Fallback.OUTSIDE: 1, Fallback.COSTLY: 3}, -2.0)
        assert shown["route/heuristic_agreement"] == 0.9
        assert (shown["guard/fallback_rate"], shown["guard/ood_rate"]) == (0.2, 0.05)
        assert of_policy(0, 0, 0, {}, 0.0) == {}


class TestLog:
    def serve(self, folder: Path) -> None:
        """Two windows of 10 s with a request each, and the rest of a third."""

        async def scenario() -> None:
            log, tally = TensorBoardLog(folder), PolicyTally()
            log.start(Source(signals(full_lane(A), full_lane(B))), tally)
            for _ in range(2):
                await asyncio.sleep(5)
                log.learn(result())
                tally.decided("learned", by_policy=True)
                tally.answered(agrees=True)
                await asyncio.sleep(5)
            await asyncio.sleep(1)
            log.learn(result())
            # What ends the log waits for the disk in a thread, which no virtual clock knows of.
            assert log._task is not None
            log._task.cancel()
            await asyncio.wait((log._task,))
            writer, log._writer = log._writer, None
            assert writer is not None
            writer.close()

        run(scenario())

    def test_every_window_is_written_and_what_is_left(self, tmp_path: Path) -> None:
        self.serve(tmp_path)
        shown = written(tmp_path)
        assert [step for step, _ in shown["serve/ttft_p50_ms"]] == [1, 2, 3]
        assert [value for _, value in shown["serve/requests_per_s"]] == pytest.approx([0.1, 0.1, 1.0])
        assert [value for _, value in shown["route/heuristic_agreement"]] == [1.0, 1.0]

    def test_every_tag_is_in_the_glossary(self, tmp_path: Path) -> None:
        self.serve(tmp_path)
        tags = {re.sub("lane_share_.*", "lane_share_N", tag) for tag in written(tmp_path)}
        tags |= set(of_lanes({}, {A: full_lane(draft_tokens_total=9, accepted_tokens_total=2, output_tokens_total=9)}))
        assert "serve/reward" in tags and tags <= DESCRIBED

    async def test_closing_writes_and_is_idempotent(self, tmp_path: Path) -> None:
        log = TensorBoardLog(tmp_path, window_s=3600)
        log.start(Source(signals(full_lane(LaneId("a")))), PolicyTally())
        log.learn(result())
        await asyncio.sleep(0.01)
        await log.aclose()
        await log.aclose()
        log.learn(result())
        assert written(tmp_path)["serve/reward"] == [(1, -4.0)]

    def test_without_tensorboard_the_start_ends_with_advice(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        real = builtins.__import__

        def without(name: str, *arguments: Any, **named: Any) -> Any:
            if name.startswith("tensorboard"):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return real(name, *arguments, **named)

        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(SetupError, match=r"streamserve\[train\]"):
            TensorBoardLog(tmp_path)

    def test_a_folder_that_cannot_be_written_ends_the_start(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(SetupError, match="--tensorboard"):
            TensorBoardLog(tmp_path / "file")

    async def test_a_disk_that_fails_later_is_told_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        log = TensorBoardLog(tmp_path, window_s=0.01)

        def full(event: object) -> None:
            raise OSError("no space left")

        monkeypatch.setattr(log._writer, "add_event", full)
        log.start(Source(signals(full_lane())), PolicyTally())
        for _ in range(3):
            log.learn(result())
            await asyncio.sleep(0.02)
        await log.aclose()
        assert caplog.text.count("no space left") == 1
