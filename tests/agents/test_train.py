"""A whole run on simulated lanes: train, stop, resume, export, evaluate."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback

from agents import evaluate, export, rating, train
from agents.environments import calibrated, make, training
from agents.folder import Folder
from agents.learner import MODEL, learner
from agents.rating import greedy
from agents.recipe import Recipe, Residual, Trials
from agents.served import served
from agents.trial import heuristic, play
from streamserve import config as configuration
from streamserve.errors import ConfigError
from streamserve.lanes.sim import calibration as calibrations
from streamserve.policy import store
from streamserve.policy.card import CalibrationOf, Topology
from tests.calibrations import example


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Environment settings of two quick lanes."""
    folder = tmp_path_factory.mktemp("lanes")
    config, calibration = folder / "config.yaml", folder / "made-up.yaml"
    model = example().origin.model
    config.write_text((configuration.config_folder() / "cpu-pair.yaml").read_text() + f"\nmodel: {model}\n")
    calibration.write_text(calibrations.dump(example()))
    return {"config": str(config), "calibration": str(calibration), "workload": "32:16", "requests": 16}


def recipe(lanes: dict[str, Any], env: Any = "Route", **changes: Any) -> Recipe:
    given = {
        "n_timesteps": 64, "n_envs": 2, "n_steps": 16, "batch_size": 16, "n_epochs": 1, "learning_rate": "lin_1e-3",
        "trials": Trials(every=1000, seeds=2), "policy_kwargs": Residual(hidden=16), "env_kwargs": lanes, **changes,
    }  # fmt: skip
    return Recipe(env=env, **given)


@pytest.fixture(scope="module")
def run(lanes: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Folder:
    said: list[str] = []
    outcome = train.train(recipe(lanes), 0, "one", said.append, tmp_path_factory.mktemp("runs"))
    assert outcome.whole and outcome.steps == 64
    assert len(said) == 2 and "streamserve tensorboard" in said[0] and said[1].startswith("64 steps: ")
    return outcome.folder


def test_a_run_leaves_checkpoints_that_serve(run: Folder) -> None:
    for folder in (run.last, run.best):
        policy = store.load(folder)
        assert policy.card.name == "one" and policy.card.steps == 64
        assert policy.card.topologies == [Topology(2, 4)]
        assert policy.card.calibration.name == "made-up"
        assert policy.card.scores == [], "a run does not judge itself"
    assert list(run.path.glob("events.out.tfevents.*")) and (run.path / "curve.png").is_file()
    ratings = rating.read(run)
    assert ratings is not None and [each.steps for each in ratings.ratings] == [64]


def test_serving_decides_as_the_learner_does(run: Folder, lanes: dict[str, Any]) -> None:
    # Large weights: a policy that still does what the heuristic does would prove nothing.
    serve = recipe(lanes, "Serve", policy_kwargs=Residual(tau=0.5, kappa=4.0), twin=False)
    envs = training(serve, lambda: make(serve))
    model = learner(serve, envs, seed=1)
    rng = np.random.default_rng(0)
    import torch

    with torch.no_grad():
        last = model.policy.mlp_extractor.fourth
        last.weight.copy_(torch.as_tensor(rng.normal(0, 0.5, last.weight.shape)))
    policy = store.Policy(store.load(run.last).card, model.policy.weights())

    def one() -> Any:
        return make(serve, {"drain": True})

    seeds = [5, 6]
    assert (
        play(one, seeds, served(policy)) == play(one, seeds, greedy(model.policy)) != play(one, seeds, heuristic(one))
    )
    envs.close()


def test_inputs_are_standardised_before_the_first_update_unless_there_is_a_policy_to_begin_with(
    run: Folder, lanes: dict[str, Any], tmp_path: Path
) -> None:
    first = load_model(run)
    assert not first.policy.pi_features_extractor.mean.eq(0.0).all()
    init = recipe(lanes, init=str(run.last), n_timesteps=32)
    second = load_model(train.train(init, 1, "two", lambda _line: None, tmp_path).folder)
    for name in ("mean", "std"):
        ours, theirs = (getattr(each.policy.pi_features_extractor, name) for each in (second, first))
        assert ours.equal(theirs)


def load_model(run: Folder) -> MaskablePPO:
    return MaskablePPO.load(run.last / MODEL, device="cpu")


class Press(BaseCallback):
    def _on_step(self) -> bool:
        if self.num_timesteps == 40:
            os.kill(os.getpid(), signal.SIGINT)
        return True


def test_a_stopped_run_is_resumed(lanes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressing(*given: Any) -> Any:
        rater = rating.Rater(*given)
        monkeypatch.setattr(rater, "_on_step", lambda: Press._on_step(rater))  # type: ignore[arg-type]
        return rater

    with monkeypatch.context() as context:
        context.setattr(train, "Rater", pressing)
        stopped = train.train(recipe(lanes), 0, "two", lambda _line: None, tmp_path)
    assert not stopped.whole and stopped.steps == 32
    assert store.load(stopped.folder.last).card.steps == 32
    assert not stopped.folder.best.exists()
    again = train.resume("two", None, lambda _line: None, tmp_path)
    assert again.whole and again.steps == 64
    before, after = (store.card(stopped.folder.last).envelope["request"] for _ in range(2))
    assert np.all(np.array(after.low) <= np.array(before.low))
    longer = train.resume("two", 96, lambda _line: None, tmp_path)
    assert longer.steps == 96
    ratings = rating.read(again.folder)
    assert ratings is not None and [each.steps for each in ratings.ratings] == [64, 96]
    for total in (None, 80):
        with pytest.raises(ConfigError, match="has made its 96 decisions: give more of them with --total-timesteps"):
            train.resume("two", total, lambda _line: None, tmp_path)
    assert train.begun("two", tmp_path).recipe.n_timesteps == 96


def test_a_run_goes_on_with_its_own_calibration_only(
    lanes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train.train(recipe(lanes), 0, "two", lambda _line: None, tmp_path)
    measured_anew = CalibrationOf("example", "0" * 64, "example", "cpu")
    monkeypatch.setattr(export, "calibration_of", lambda *_: measured_anew)
    with pytest.raises(ConfigError, match="another calibration"):
        train.resume("two", 128, lambda _line: None, tmp_path)


def test_the_same_seed_trains_the_same_policy(run: Folder, lanes: dict[str, Any], tmp_path: Path) -> None:
    again = train.train(recipe(lanes), 0, "one", lambda _line: None, tmp_path).folder
    assert store.card(again.last).sha256 == store.card(run.last).sha256
    other = train.train(recipe(lanes), 1, "other", lambda _line: None, tmp_path).folder
    assert store.card(other.last).sha256 != store.card(run.last).sha256


def test_depths_of_lanes_are_trained_too(lanes: dict[str, Any], tmp_path: Path) -> None:
    spec = recipe({**lanes, "tick_s": 0.2}, "Spec")
    folder = train.train(spec, 0, "spec", lambda _line: None, tmp_path).folder
    policy = store.load(folder.last)
    assert policy.card.kind == "spec"
    episodes = play(lambda: make(spec, {"drain": True}), [1], served(policy))
    assert len(episodes[0].results) == 16


def test_an_evaluation_compares_and_writes_scores(run: Folder, lanes: dict[str, Any], tmp_path: Path) -> None:
    asked = evaluate.Asked(
        [str(run.best)], ["busy", "slow lane", "5 lanes"], lanes["config"], lanes["calibration"], seeds=2, requests=12,
        baselines=["cheapest", "random"],
    )  # fmt: skip
    table = evaluate.evaluate(asked, lambda _line: None)
    assert table.scenarios == ["busy", "slow lane", "5 lanes"]
    assert table.policies == ["one", "cheapest", "random"]
    evaluate.keep(table, tmp_path / "out")
    assert "## one" in (tmp_path / "out" / "report.md").read_text()
    with pytest.raises(ConfigError, match="wants 6 seeds"):
        evaluate.score(str(run.best), table)
    assert store.load(run.best).card.scores == []
    # Intervals of three times the same episodes say nothing; they are written as others are.
    table = msgspec.structs.replace(table, cells=[
        msgspec.structs.replace(each, seeds=each.seeds * 3, figures=each.figures * 3) for each in table.cells
    ])  # fmt: skip
    evaluate.score(str(run.best), table)
    scores = store.load(run.best).card.scores
    assert [score.scenario for score in scores] == ["busy", "slow lane", "5 lanes"]
    assert scores[0].gain == table.gain("busy", "one").value


def test_a_run_begins_with_an_earlier_one(run: Folder, lanes: dict[str, Any], tmp_path: Path) -> None:
    envs = training(recipe(lanes, twin=False), lambda: make(recipe(lanes)))
    model = learner(recipe(lanes, init=str(run.last)), envs, seed=9)
    assert np.array_equal(model.policy.weights().W4, store.load(run.last).weights.W4)
    assert model.num_timesteps == 0
    with pytest.raises(ConfigError, match="there is no nowhere"):
        learner(recipe(lanes, init="nowhere"), envs, seed=9)
    with pytest.raises(ConfigError, match="policy_kwargs.hidden"):
        learner(recipe(lanes, init=str(run.last), policy_kwargs=Residual(hidden=8)), envs, seed=9)
    envs.close()


def test_unknown_scenarios_and_baselines_are_named(run: Folder, lanes: dict[str, Any]) -> None:
    asked = evaluate.Asked([str(run.best)], config=lanes["config"], calibration=lanes["calibration"], seeds=2)
    for wrong, said in (
        (replace(asked, scenarios=["storm"]), "storm"),
        (replace(asked, baselines=["oracle"]), "oracle"),
    ):
        with pytest.raises(ConfigError, match=said):
            evaluate.evaluate(wrong, lambda _line: None)


def test_what_cannot_work_leaves_no_folder_behind(lanes: dict[str, Any], tmp_path: Path) -> None:
    wrong = recipe({**lanes, "lod": 0.5})
    with pytest.raises(ConfigError, match="did you mean load"):
        train.train(wrong, 0, "bad", lambda _line: None, tmp_path)
    for late in ({"options": {"speeds": {"lane-9": 1.0}}}, {"arrivals": "trace:nowhere.jsonl"}, {"load": "high"}):
        with pytest.raises(ConfigError):
            train.train(recipe({**lanes, **late}), 0, "bad", lambda _line: None, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_gets_the_calibration_of_its_model() -> None:
    with pytest.raises(ConfigError, match="no calibration ships for the model"):
        calibrated(Recipe(env_kwargs={"config": _with_model("nobody/has-this")}))


def _with_model(model: str) -> Any:
    import msgspec

    return msgspec.structs.replace(configuration.load("cpu-pair"), model=model)
