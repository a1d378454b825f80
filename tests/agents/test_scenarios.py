"""Scenarios are served as requests are: how long an output becomes is nobody's to know."""

from agents.scenarios import of_texts, scenarios
from streamserve import config
from streamserve.workload.plan import Planned
from tests.envs.scenes import simulated

KNOWN = scenarios(config.load("cpu-pair"), 40)


def test_no_scenario_tells_how_long_outputs_become() -> None:
    every = {**KNOWN, **of_texts("folder", ("poisson", "gamma:5"), 40)}
    assert {name for name, each in every.items() if "output_share" not in each["randomise"]} == set()
    assert every["early ends"]["randomise"]["output_share"] == (0.05, 1.0)
    assert every["3 lanes"]["randomise"] == {"lanes": (3, 3), "output_share": (0.2, 1.0)}
    assert all((each["requests"], each["drain"]) == (40, True) for each in every.values())


def test_requests_may_generate_more_than_they_do() -> None:
    environment = simulated("Route", **KNOWN["busy"])
    environment.reset(seed=1)
    planned: list[Planned] = list(environment.unwrapped.scenario.traffic.planned(40))
    environment.close()
    assert all(each.output_tokens is not None and each.output_tokens <= each.max_tokens for each in planned)
    assert len({each.output_tokens for each in planned}) > 10
    assert sum(each.output_tokens == each.max_tokens for each in planned) < 10
