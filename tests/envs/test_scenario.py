"""Scenarios, their traffic, and the capacity that loads are shares of."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import pytest

from envs.capacity import capacity
from envs.scenario import draw
from envs.settings import Settings
from envs.traffic import Traffic, source
from streamserve import errors
from streamserve.config import LaneConfig, SloConfig
from streamserve.types import LaneId, Slo
from streamserve.workload.lengths import Lengths
from tests.envs.scenes import CALIBRATION, A, B, config

RANDOMISED = {
    "load": [0.3, 0.9],
    "lanes": [2, 6],
    "speed": [0.5, 2.0],
    "staleness_s": [0.0, 0.5],
    "acceptance_scale": [0.5, 1.0],
    "drift": [0.2, 0.8],
    "failures": 3.0,
    "length_scale": [0.5, 1.0],
    "output_share": [0.4, 1.0],
    "arrivals": ["poisson", "gamma:3"],
}
MADE_UP = source("64:16")


def test_every_range_is_kept_and_the_seed_decides() -> None:
    settings = Settings.of(config=config(), randomise=RANDOMISED, workload="64:16")
    drawn = [draw(settings, CALIBRATION, MADE_UP, np.random.default_rng(seed)) for seed in range(60)]
    again = draw(settings, CALIBRATION, MADE_UP, np.random.default_rng(7))
    assert again == drawn[7]
    assert {len(each.config.lanes) for each in drawn} == {2, 3, 4, 5, 6}
    speeds = [speed for each in drawn for speed in each.options.speeds.values()]
    assert 0.5 <= min(speeds) < 0.8
    assert 1.4 < max(speeds) <= 2.0
    assert all(0.0 <= each.options.staleness_s <= 0.5 for each in drawn)
    assert all(0.5 <= each.options.acceptance_scale <= 1.0 for each in drawn)
    assert all(0.2 <= each.options.acceptance_drift[0][1] <= 0.8 for each in drawn)
    assert {each.traffic.arrivals for each in drawn} == {"poisson", "gamma:3"}
    failures = [len(each.options.failures) for each in drawn]
    assert 2.0 < np.mean(failures) < 4.0
    lanes = {lane.id for lane in drawn[0].config.lanes}
    assert {lane for _, lane in drawn[0].options.failures} <= lanes
    assert len({each.options.seed for each in drawn}) == 60


def test_a_load_is_a_share_of_the_capacity() -> None:
    settings = Settings.of(config=config(), workload="64:16", load=0.5, rate_scale=2.0)
    scenario = draw(settings, CALIBRATION, MADE_UP, np.random.default_rng(0))
    assert scenario.traffic.rate == pytest.approx(capacity(config(), CALIBRATION, Lengths(64, 16), {}))
    fixed = draw(settings.but({"rate": 3.0}), CALIBRATION, MADE_UP, np.random.default_rng(0))
    assert fixed.traffic.rate == 6.0


def test_a_load_is_of_what_requests_generate_and_not_of_what_they_may() -> None:
    settings = Settings.of(config=config(), workload="64:16", load=1.0, randomise={"output_share": [0.2, 0.8]})
    scenario = draw(settings, CALIBRATION, MADE_UP, np.random.default_rng(0))
    assert scenario.traffic.rate == pytest.approx(capacity(config(), CALIBRATION, Lengths(64, 8), {}))


def test_a_lane_in_full_batches_pays_for_no_step_of_prompts_alone() -> None:
    step = msgspec.structs.replace(CALIBRATION.step, prompt_s=10.0)
    dearer = msgspec.structs.replace(CALIBRATION, step=step)
    assert capacity(config(), dearer, Lengths(64, 16), {}) == capacity(config(), CALIBRATION, Lengths(64, 16), {})


def test_the_configuration_s_slo_is_the_default() -> None:
    settings = Settings.of(config=config(slo=SloConfig(1.0, 0.1)), slo={"ttft_s": 0.5})
    scenario = draw(settings, CALIBRATION, MADE_UP, np.random.default_rng(0))
    assert scenario.traffic.slo == Slo(0.5, 0.1)


def test_capacity_grows_with_lanes_and_falls_with_lengths() -> None:
    means = Lengths(64, 16)
    two = capacity(config(), CALIBRATION, means, {})
    four = [LaneConfig(LaneId(name)) for name in "abcd"]
    assert capacity(config(lanes=four), CALIBRATION, means, {}) == pytest.approx(2 * two)
    assert capacity(config(), CALIBRATION, means, {A: 2.0, B: 2.0}) == pytest.approx(2 * two)
    assert capacity(config(), CALIBRATION, Lengths(128, 16), {}) < two
    assert capacity(config(), CALIBRATION, Lengths(64, 32), {}) < two


def test_traffic_is_the_same_every_time() -> None:
    traffic = Traffic(MADE_UP, "gamma:2", 4.0, seed=3, output_share=(0.2, 0.9), slo=Slo(1.0))
    planned = list(traffic.planned(200))
    assert planned == list(traffic.planned(200))
    assert planned != list(replace(traffic, seed=4).planned(200))
    assert planned == list(islice(traffic.planned(), 200))
    assert 200 / planned[-1].arrival_s == pytest.approx(4.0, rel=0.4)
    shares = [each.output_tokens / each.max_tokens for each in planned if each.output_tokens and each.max_tokens > 20]
    assert min(shares) >= 0.15
    assert max(shares) <= 0.95
    assert {each.slo for each in planned} == {Slo(1.0)}


def test_made_up_tokens_stay_in_the_vocabulary() -> None:
    traffic = Traffic(source("64:16", vocabulary=100), "poisson", 1.0, seed=0)
    assert max(max(each.prompt_token_ids) for each in traffic.planned(100)) < 100


def test_a_folder_of_prompt_sets_is_sent_in_turns(tmp_path: Path) -> None:
    for name in ("one", "two"):
        lines = [{"id": f"{name}-{n}", "prompt": f"{name} {n} " * 4, "max_tokens": 8 + n} for n in range(3)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    texts = source(tmp_path)
    planned = list(Traffic(texts, "poisson", 1.0, seed=0, length_scale=2.0).planned(6))
    assert sorted(each.workload for each in planned) == ["one"] * 3 + ["two"] * 3
    assert {each.max_tokens for each in planned} == {16, 18, 20}
    # Outputs are scaled, texts are as long as they are: the load is a share of what such requests cost.
    mean_prompt = sum(len(each.prompt_token_ids) for each in planned) / 6
    assert texts.means(2.0) == Lengths(mean_prompt, 18.0)
    assert texts.means(0.01) == Lengths(mean_prompt, 2.0)
    encoded = Traffic(source(tmp_path, encode=lambda prompt: [7]), "poisson", 1.0, seed=0)
    assert {each.prompt_token_ids for each in encoded.planned(3)} == {(7,)}


def test_a_workload_that_is_not_there_is_refused() -> None:
    with pytest.raises(errors.ConfigError, match="name a folder of JSONL prompt sets"):
        source("no-such-folder")
