"""What a contest may be asked for."""

from pathlib import Path
from typing import Any

import pytest

from streamserve.bench.contest.settings import Point, Settings, capacities, check, points
from streamserve.errors import ConfigError


def asked(**changes: Any) -> Settings:
    return Settings(**{"systems": ("streamserve", "vllm"), "plots": False, **changes})


def test_points_are_workloads_times_arrivals_times_loads_and_a_burst_has_no_load() -> None:
    made = points(asked(workloads=("a", "mix"), arrivals=("poisson", "burst"), loads=(0.5, 0.8)))
    assert made == (
        Point("a", "poisson", 0.5), Point("a", "poisson", 0.8), Point("a", "burst", 1.0),
        Point("mix", "poisson", 0.5), Point("mix", "poisson", 0.8), Point("mix", "burst", 1.0),
    )  # fmt: skip
    assert [str(each) for each in made[1:3]] == ["a, poisson, load 0.8", "a, all at once"]


def test_a_rate_is_one_load() -> None:
    assert points(asked(rate=2.5)) == (Point("mix", "poisson", 1.0),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"systems": ()}, "names none"),
        ({"systems": ("vllm", "vllm")}, "--aa"),
        ({"arrivals": ("often",)}, "poisson, gamma:CV, burst, alone or trace:FILE"),
        ({"arrivals": ("mmpp:1,4:10",)}, "poisson, gamma:CV"),
        ({"arrivals": ("gamma:-1",)}, "too small"),
        ({"arrivals": ("trace:/no/such.csv",)}, "cannot be read"),
        ({"loads": (0.5, 0.0)}, "--loads"),
        ({"loads": (0.5, 0.5)}, "--loads says the same twice"),
        ({"arrivals": ("poisson", "poisson")}, "--arrivals says the same twice"),
        ({"workloads": ("mix", "mix")}, "--workloads says the same twice"),
        (
            {"workloads": ("a", "mix"), "capacity": {"b": 1.0}},
            "--capacity names b, of which no run is: write a=X,mix=X",
        ),
        ({"rate": 0.0}, "--rate"),
        ({"capacity": {"mix": float("nan")}}, "--capacity"),
        ({"length_scale": 0.0}, "--length-scale"),
        ({"slo_ttft_s": -1.0}, "--slo-ttft"),
        ({"apart": True, "keep": True}, "--keep"),
    ],
)
def test_mistakes_are_found_before_anything_starts(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(asked(**changes))


def test_what_can_be_asked_passes(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s\n0\n1\n3\n")
    check(asked(arrivals=("poisson", "gamma:5", "burst", "alone", f"trace:{trace}"), requests=3))


def test_a_trace_has_an_arrival_for_every_request(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s\n0\n1\n3\n")
    with pytest.raises(ConfigError, match="it has 2 arrivals, a run sends 3: give --requests 2"):
        check(asked(arrivals=(f"trace:{trace}@1",), requests=3))


def test_plots_need_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    check(asked())
    with pytest.raises(ConfigError, match="--no-plots"):
        check(asked(plots=True))


def test_capacities_are_one_number_or_by_workload() -> None:
    assert capacities(None) == {}
    assert capacities("0.8") == {"*": 0.8}
    assert capacities("alpaca=0.9,mix=0.6") == {"alpaca": 0.9, "mix": 0.6}
    with pytest.raises(ConfigError, match="WORKLOAD=X"):
        capacities("alpaca=fast")
