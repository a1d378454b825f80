"""Training on lanes that are real to the environment: no comparisons, and checkpoints all the same."""

from pathlib import Path

from agents import train
from agents.recipe import Recipe, Residual, Trials
from envs.live import Live
from streamserve.policy import store
from tests.envs.scenes import config, request, slow


def test_a_run_on_live_lanes_leaves_its_last_checkpoint(tmp_path: Path) -> None:
    recipe = Recipe(
        env="Route", plant="live", n_timesteps=32, n_envs=1, n_steps=16, batch_size=8, n_epochs=1, twin=False,
        policy_kwargs=Residual(hidden=8), trials=Trials(every=16),
        env_kwargs={"rate": 200.0, "requests": 12, "workload": "8:4"},
    )  # fmt: skip
    said: list[str] = []
    lanes = {"live": Live(slow(), request, idle_limit_s=2.0, decision_limit_s=5.0), "config": config()}
    outcome = train.train(recipe, 0, "real", said.append, tmp_path, lanes)
    assert outcome.whole and outcome.steps == 32 and outcome.best is None and len(said) == 1
    assert store.load(outcome.folder.last).card.calibration.name == "live"
    assert not outcome.folder.best.exists()
