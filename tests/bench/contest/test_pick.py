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


def runs(factors: dict[Topology, float], again: float = 1.0, repeats: int = 5) -> list[Kept]:
    made = [kept(each.system, r, quick(factor, r)) for r in range(repeats) for each, factor in factors.items()]
    return [*made, *(kept(ELASTIC.system + AGAIN, r, quick(again, r)) for r in range(repeats))]


def goodput(met: dict[str, int]) -> list[Kept]:
    """Of four requests so many meet the SLO; latencies are the same."""
    return [
        kept(label, repeat, [sample(0.1 if i < n else 0.2, 1.0) for i in range(4)])
        for repeat in range(5)
        for label, n in met.items()
    ]


def test_goodput_decides_first() -> None:
    found = chosen(goodput({ELASTIC.system: 2, STATIC.system: 1, ONE.system: 4}), TIGHT)
    assert found.topology is ONE
    assert found.margin is not None and found.margin.median == 2.0
    assert found.reason == "SLO goodput, 1/s 2 (2 .. 2, n=5) times better than 2 elastic lanes, noise 3 %"


def test_e2e_decides_where_goodput_does_not() -> None:
    found = chosen(runs({ELASTIC: 1.0, STATIC: 2.0, ONE: 0.8}))
    assert found.topology is ONE
    assert found.reason.startswith("E2E p99, s 1.25 (1.25 .. 1.25, n=5) times better than 2 elastic lanes")


def test_faster_at_less_goodput_is_no_choice() -> None:
    made = [
        kept(ELASTIC.system, r, [sample(0.1, 2.0)] * 4) for r in range(5)
    ] + [kept(ONE.system, r, [sample(0.1, 1.0), *[sample(0.2, 1.0)] * 3]) for r in range(5)]  # fmt: skip
    assert chosen(made, TIGHT).topology is ELASTIC


def test_the_default_stays_where_the_difference_is_noise() -> None:
    for factors, again in (({ELASTIC: 1.0, STATIC: 1.0, ONE: 0.98}, 1.0), ({ELASTIC: 1.0, STATIC: 1.0, ONE: 0.9}, 1.2)):
        found = chosen(runs(factors, again))
        assert found.topology is ELASTIC and found.margin is None
        assert found.reason.startswith("no difference beyond noise: the default stays (static 1P1D goodput x 1")


def test_few_runs_choose_nothing() -> None:
    assert chosen(runs({ELASTIC: 1.0, STATIC: 2.0, ONE: 0.5}, repeats=4)).topology is ELASTIC
    assert chosen(runs({ELASTIC: 1.0, STATIC: 2.0, ONE: 0.5})).topology is ONE


def test_runs_that_disagree_choose_nothing() -> None:
    made = runs({ELASTIC: 1.0, STATIC: 2.0, ONE: 0.5})
    lost = next(each for each in made if each.run.cell.system == ONE.system)
    made[made.index(lost)] = kept(ONE.system, lost.run.cell.repeat, quick(1.1, lost.run.cell.repeat))
    assert chosen(made).topology is ELASTIC


def test_repeats_of_several_loads_count_together() -> None:
    factors = {ELASTIC: 1.0, STATIC: 2.0, ONE: 0.5}
    made = runs(factors, repeats=3)
    other = [kept(each.system, r, quick(f, r), load=0.5) for r in range(3) for each, f in factors.items()]
    assert chosen(made).topology is ELASTIC
    assert chosen([*made, *other]).topology is ONE


def test_a_topology_that_loses_requests_is_not_the_fastest() -> None:
    made = runs({ELASTIC: 1.0, STATIC: 2.0})
    lossy = [*[sample(0.01, 0.1)] * 4, sample(0.01, 0.1, error="cut off")]
    assert chosen([*made, *(kept(ONE.system, r, lossy) for r in range(5))]).topology is ELASTIC


def test_the_default_stays_where_it_is_the_best() -> None:
    assert chosen(runs({ELASTIC: 1.0, STATIC: 3.0, ONE: 2.0})).margin is None
