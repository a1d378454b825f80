"""Which policy serves: what is asked for, what is proven, what is refused; and one exchanged for another under load."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamserve.config import Config, LaneConfig, PolicyConfig, SloConfig
from streamserve.errors import ConfigError, PolicyError
from streamserve.policy import mode, selection, store
from streamserve.policy.card import CalibrationOf, Deadlines, Score, Topology
from streamserve.policy.mode import Mode, Way
from streamserve.policy.switch import PolicySwitch
from streamserve.types import Finish, LaneId
from streamserve.virtual import run
from tests.fakes import make_request
from tests.policy.policies import PAIRS, make_card, make_config, make_weights, moments
from tests.scheduler.rack import Rack


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of policies: a proven one, one that goes its own way, one for the depth."""
    store.save(tmp_path / "proven", make_card(name="proven"), make_weights())
    store.save(tmp_path / "own", make_card(name="own", scores=[]), make_weights(trained=True, kappa=10.0))
    store.save(tmp_path / "depth", make_card("spec", name="depth", scores=[]), make_weights("spec"))
    return tmp_path


class TestChoosing:
    @pytest.mark.parametrize(
        ("policy", "name", "shown"),
        [
            ({"source": "heuristic"}, "heuristic", "heuristic"),
            ({"source": "auto"}, "proven", "learned"),
            ({"source": "own"}, "own", "learned"),
            ({"source": "own", "mode": "canary:0.25"}, "own", "canary:0.25"),
            ({"source": "own", "mode": "heuristic"}, "heuristic", "heuristic"),
            ({"source": "depth", "mode": "shadow"}, "depth", "shadow"),
        ],
    )
    def test_what_is_asked_for(self, folder: Path, policy: dict[str, str], name: str, shown: str) -> None:
        report = PolicySwitch(make_config(**policy), folder).report()
        assert (report["source"], report["mode"], report["refused"]) == (name, shown, None)
        assert report["asked"] == policy["source"]

    @pytest.mark.parametrize("source", ["nowhere", "damaged"])
    def test_one_that_cannot_be_used_is_one_log_line_and_the_heuristic_serves(
        self, folder: Path, source: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        (folder / "damaged").mkdir()
        (folder / "damaged" / "card.json").write_text("{}")
        with caplog.at_level(logging.INFO):
            switch = PolicySwitch(make_config(source=source), folder)
        (record,) = caplog.records
        assert record.levelname == "ERROR" and "the heuristic serves" in record.message
        assert switch.report()["source"] == "heuristic"
        assert source in switch.report()["refused"]
        for request, signals in moments(20):
            assert switch.route(request, signals).router == "flowguard"

    def test_auto_without_a_proven_one_is_one_log_line(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            report = PolicySwitch(make_config(), tmp_path).report()
        (record,) = caplog.records
        assert record.message == "policy heuristic (auto): no shipped policy is proven here (none is shipped)"
        assert (report["source"], report["refused"]) == ("heuristic", None)

    def test_auto_passes_a_damaged_one_over(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        (folder / "proven" / "policy.npz").write_bytes(b"junk")
        switch = PolicySwitch(make_config(), folder)
        assert switch.report()["source"] == "heuristic"
        assert "auto passes it over" in caplog.text

    def test_one_for_another_topology_is_loaded_when_asked_for_and_says_so(self, folder: Path) -> None:
        config = Config(lanes=[LaneConfig(LaneId("a"))], policy=PolicyConfig(source="own"))
        assert "not trained for 1 lanes" in PolicySwitch(config, folder).report()["reason"]

    def test_another_router_has_no_policy(self, folder: Path) -> None:
        config = msgspec.structs.replace(make_config(), router="round_robin")
        switch = PolicySwitch(config, folder)
        assert switch.report()["source"] == "heuristic" and "round_robin" in switch.report()["reason"]
        with pytest.raises(PolicyError, match="router=flowguard"):
            switch.read("own", Mode(Way.LEARNED))

    @pytest.mark.parametrize(
        "bad", ["", "greedy", "canary", "canary:", "canary:0", "canary:1", "canary:nan", "shadow:1"]
    )
    def test_a_mode_that_cannot_be(self, folder: Path, bad: str) -> None:
        with pytest.raises(ConfigError, match="policy mode"):
            PolicySwitch(make_config(mode=bad), folder)

    def test_a_policy_and_its_mode_in_one_word(self) -> None:
        assert mode.split("a/b,canary:0.5") == ("a/b", "canary:0.5")
        assert mode.split("auto") == ("auto", None)
        with pytest.raises(ConfigError, match="policy mode"):
            mode.split("auto,often")


class TestProven:
    def judged(self, **fields: Any) -> str | None:
        return selection.judge(make_card(**fields), make_config()).obstacle

    def scores(self, *lows_and_gains: tuple[float, float]) -> list[Score]:
        return [Score(f"s{n}", gain, low, gain + 0.1) for n, (low, gain) in enumerate(lows_and_gains)]

    def test_a_certain_gain_in_half_of_the_scenarios_and_no_loss(self) -> None:
        assert self.judged(scores=self.scores((0.01, 0.05), (-0.05, -0.02))) is None
        assert "loses 3.0%" in (self.judged(scores=self.scores((0.01, 0.05), (-0.05, -0.03))) or "")
        assert "1 of 3" in (self.judged(scores=self.scores((0.01, 0.05), (0.0, 0.04), (-0.1, 0.0))) or "")
        assert "0 of 0" in (self.judged(scores=[]) or "")

    def test_a_certain_loss_on_real_lanes_outweighs_every_gain_in_simulation(self) -> None:
        unsure = [Score("steady, 0.8", -0.03, -0.08, 0.02), Score("bursts, 0.8", 0.05, 0.01, 0.09)]
        assert self.judged(live=unsure) is None
        lost = self.judged(live=[*unsure, Score("slow lane, 0.8", -0.04, -0.06, -0.02)])
        assert lost == "loses 4.0% on real lanes in slow lane, 0.8"

    def test_one_that_meets_deadlines_serves_where_there_are_some(self) -> None:
        card = make_card(deadlines=Deadlines(3.0, 0.1))
        assert "set slo.ttft_s=3 and slo.tpot_s=0.1" in (self.judged(deadlines=card.deadlines) or "")
        config = msgspec.structs.replace(make_config(), slo=SloConfig(2.0, 0.2))
        assert selection.judge(card, config).obstacle is None

    def test_only_for_this_topology_and_model(self) -> None:
        assert "2 lanes and 4 pairs" in (self.judged(topologies=[Topology(2, 1), Topology(4, 4)]) or "")
        assert "other on cpu" in (self.judged(calibration=CalibrationOf("c", "h", "other", "cpu")) or "")

    def test_the_best_of_the_proven(self) -> None:
        cards = [make_card(name=str(gain), scores=self.scores((0.01, gain))) for gain in (0.03, 0.07, 0.05)]
        chosen, reason = selection.best(cards, make_config())
        assert chosen is cards[1] and "7.0%" in reason
        assert selection.best([], make_config()) == (None, "no shipped policy is proven here (none is shipped)")


def test_flowguard_keeps_what_it_has_learned_over_a_swap(folder: Path) -> None:
    switch, still = (PolicySwitch(make_config(source="heuristic"), folder) for _ in range(2))
    for number, (request, signals) in enumerate(moments(100)):
        if number % 10 == 0:
            switch.use(switch.read(("proven", "heuristic")[number // 10 % 2], Mode(Way.LEARNED)))
        changed, same = switch.route(request, signals), still.route(request, signals)
        assert (changed.prefill, changed.decode, changed.prediction) == (same.prefill, same.decode, same.prediction)


def test_swaps_under_load_lose_nothing(folder: Path) -> None:
    async def scenario() -> None:
        switch = PolicySwitch(make_config(source="heuristic", rho=100.0, budget_us=None), folder)
        choices = [switch.read(source, mode.parse(how)) for source, how in SWAPS]
        async with Rack(PAIRS, router=switch, max_dispatched=8) as rack:
            switch.start(rack.scheduler)
            readers = []
            for number in range(200):
                if number % 7 == 0:
                    switch.use(choices[number // 7 % len(choices)])
                request = make_request(f"r{number}", range(number % 50 + 1), max_tokens=5, continuable=True)
                readers.append(rack.read(request))
                await asyncio.sleep(0.01 * (number % 3))
            outputs = await asyncio.gather(*readers)
            assert [len(output) for output in outputs] == [5] * 200
            assert {result.finish for result in rack.results} == {Finish.LENGTH}
            assert {decision.router for decision in rack.decisions} == {"learned", "flowguard"}
            assert switch.tally.fallbacks == {}
            await switch.aclose()
            await rack.assert_empty()

    run(scenario())


SWAPS = [
    ("proven", "learned"),
    ("own", "shadow"),
    ("depth", "learned"),
    ("own", "canary:0.5"),
    ("heuristic", "learned"),
    ("own", "learned"),
]
