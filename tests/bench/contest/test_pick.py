"""Which topology is chosen, and that noise chooses none."""

from streamserve.bench.contest import compare, pick
from streamserve.bench.contest.contest import AGAIN
from streamserve.bench.contest.folder import Kept
from streamserve.bench.contest.presets import Topology, topologies
from streamserve.bench.contest.settings import Settings
from tests.bench.contest.hall import kept, quick, sample

CANDIDATES = topologies("cpu-pair")
ELASTIC, STATIC, ONE = CANDIDATES
LOOSE, TIGHT = 100.0, 0.15


def chosen(runs: list[Kept], slo_ttft_s: float = LOOSE) -> pick.Choice:
    settings = Settings(tuple(each.system for each in CANDIDATES), slo_ttft_s=slo_ttft_s, slo_tpot_s=LOOSE)
    return pick.choose(compare.grouped(runs, settings), CANDIDATES)


def runs(factors: dict[Topology, float], again: float = 1.0) -> list[Kept]:
    made = [kept(each.system, r, quick(factor, r)) for r in range(3) for each, factor in factors.items()]
    return [*made, *(kept(ELASTIC.system + AGAIN, r, quick(again, r)) for r in range(3))]


def goodput(met: dict[str, int]) -> list[Kept]:
    """Of four requests so many meet the SLO; latencies are the same."""
    return [
        kept(label, repeat, [sample(0.1 if i < n else 0.2, 1.0) for i in range(4)])
        for repeat in range(3)
        for label, n in met.items()
    ]


def test_goodput_decides_first() -> None:
    found = chosen(goodput({ELASTIC.system: 2, STATIC.system: 1, ONE.system: 4}), TIGHT)
    assert found.topology is ONE
    assert found.margin is not None and found.margin.median == 2.0
    assert found.reason == "SLO goodput, 1/s 2 (2 .. 2, n=3) times better than 2 elastic lanes, noise 3 %"


def test_e2e_decides_where_goodput_does_not() -> None:
    found = chosen(runs({ELASTIC: 1.0, STATIC: 2.0, ONE: 0.8}))
    assert found.topology is ONE
    assert found.reason.startswith("E2E p99, s 1.25 (1.25 .. 1.25, n=3) times better than 2 elastic lanes")


def test_faster_at_less_goodput_is_no_choice() -> None:
    made = [
        kept(ELASTIC.system, r, [sample(0.1, 2.0)] * 4) for r in range(3)
    ] + [kept(ONE.system, r, [sample(0.1, 1.0), *[sample(0.2, 1.0)] * 3]) for r in range(3)]  # fmt: skip
    assert chosen(made, TIGHT).topology is ELASTIC


def test_the_default_stays_where_the_difference_is_noise() -> None:
    for factors, again in (({ELASTIC: 1.0, STATIC: 1.0, ONE: 0.98}, 1.0), ({ELASTIC: 1.0, STATIC: 1.0, ONE: 0.9}, 1.2)):
        found = chosen(runs(factors, again))
        assert found.topology is ELASTIC and found.margin is None
        assert found.reason.startswith("no difference beyond noise: the default stays (static 1P1D goodput x 1")


def test_two_runs_choose_nothing() -> None:
    few = [each for each in runs({ELASTIC: 1.0, STATIC: 2.0, ONE: 0.5}) if each.run.cell.repeat < 2]
    assert chosen(few).topology is ELASTIC


def test_the_default_stays_where_it_is_the_best() -> None:
    assert chosen(runs({ELASTIC: 1.0, STATIC: 3.0, ONE: 2.0})).margin is None
