"""Recipes: YAML with the keys of RL Zoo, and errors that help."""

from pathlib import Path

import pytest

from agents.recipe import Recipe, checked, load, names, schedule
from streamserve.errors import ConfigError


@pytest.mark.parametrize("name", names())
def test_the_shipped_recipes_load(name: str) -> None:
    assert load(name).n_timesteps >= 1


def test_recipes_are_shipped() -> None:
    assert {"route", "serve", "spec", "quick"} <= set(names())


def test_a_linear_schedule_falls_to_0() -> None:
    falling = schedule("lin_3e-4")
    assert [falling(1.0), falling(0.5), falling(0.0)] == [3e-4, 1.5e-4, 0.0]
    assert schedule(0.2)(0.1) == 0.2


def test_settings_override_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("n_epochs: 7\n")
    assert load(str(path), ["n_epochs=2", "env_kwargs.load=0.5"]) == Recipe(n_epochs=2, env_kwargs={"load": 0.5})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("n_epoch: 3", "did you mean 'n_epochs'"),
        ("env: Rout", "Invalid enum value 'Rout'"),
        ("learning_rate: fast", "write a number or lin_NUMBER"),
        ("clip_range: lin_-1", "must be above 0"),
        ("n_envs: 0", "n_envs must be at least 1"),
        ("batch_size: 1", "must be at least 2"),
        ("gamma: 1.5", "gamma must be between 0 and 1"),
        ("plant: live", "a twin run needs plant: sim"),
        ("plant: live\ntwin: false", "n_envs must be 1"),
        ("trials: {every: 0}", "trials.every must be at least 1"),
    ],
)
def test_what_cannot_work_is_said(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load(str(path))


def test_an_unknown_name_tells_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="route"):
        load("rout")


def test_the_default_recipe_is_sound() -> None:
    assert checked(Recipe(), "default") == Recipe()
