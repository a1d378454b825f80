"""The ledger: sums are those of the results, whenever it is settled and however late it is told."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.reward import Cost, Ledger, Weights
from streamserve.types import Finish, Result, Slo
from tests.fakes import make_request


@dataclass(frozen=True)
class Life:
    """One request: instants from its arrival on."""

    arrived_s: float
    ttft_s: float
    decode_s: float
    tokens: int
    finish: Finish
    late_s: float
    """How much later than it happens the ledger is told."""

    def result(self, number: int, slo: Slo) -> Result:
        started = self.finish is not Finish.ERROR or self.tokens > 1
        first_s = self.arrived_s + self.ttft_s
        return Result(
            request_id=str(number),
            decision=None,
            prompt_tokens=3,
            output_tokens=self.tokens if started else 0,
            arrived_s=self.arrived_s,
            finished_s=first_s + self.decode_s,
            finish=self.finish,
            first_token_s=first_s if started else None,
            slo=slo,
        )


# Eighths of a second are exact in binary, so that equal instants are equal.
seconds = st.integers(0, 80).map(lambda eighths: eighths / 8)
lives = st.builds(
    Life,
    arrived_s=seconds,
    ttft_s=seconds,
    decode_s=seconds,
    tokens=st.integers(1, 20),
    finish=st.sampled_from((Finish.LENGTH, Finish.STOP, Finish.ERROR)),
    late_s=seconds,
)
slos = st.builds(Slo, st.none() | seconds.map(lambda s: s + 0.125), st.none() | st.sampled_from((0.125, 0.5)))


@given(st.lists(lives, max_size=8), slos, st.lists(seconds, max_size=30))
def test_a_drained_ledger_sums_to_the_results(told: list[Life], slo: Slo, looks: list[float]) -> None:
    events = []
    for number, life in enumerate(told):
        result = life.result(number, slo)
        events.append((life.arrived_s, 0, number, "arrive"))
        if result.first_token_s is not None:
            events.append((result.first_token_s + life.late_s, 1, number, "first"))
        events.append((result.finished_s + life.late_s, 2, number, "end"))
    events += [(2 * at_s, 3, -1, "look") for at_s in looks]
    ledger = Ledger(0.0)
    costs = []
    for at_s, _, number, what in sorted(events):
        if what == "look":
            costs.append(ledger.settle(at_s))
            continue
        life = told[number]
        if what == "arrive":
            ledger.arrived(make_request(str(number), arrived_s=life.arrived_s, max_tokens=life.tokens), slo)
        elif what == "first":
            ledger.first_token(str(number), life.arrived_s + life.ttft_s)
        else:
            ledger.ended(life.result(number, slo))
    costs.append(ledger.settle(1000.0))
    results = [life.result(number, slo) for number, life in enumerate(told)]
    assert ledger.in_system == 0
    waited_s = sum(each.e2e_s if each.ttft_s is None else each.ttft_s for each in results)
    assert sum(cost.ttft_s for cost in costs) == pytest.approx(waited_s)
    assert sum(cost.ttft_s + cost.decode_s for cost in costs) == pytest.approx(sum(each.e2e_s for each in results))
    failed = [each for each in results if each.finish is Finish.ERROR]
    assert sum(cost.failures for cost in costs) == len(failed)
    assert sum(cost.slo for cost in costs) == sum(_missed(each, life) for each, life in zip(results, told, strict=True))


def _missed(result: Result, life: Life) -> int:
    slo = result.slo
    waited_s = result.e2e_s if result.ttft_s is None else result.ttft_s
    ttft = slo.ttft_s is not None and waited_s > slo.ttft_s
    if slo.tpot_s is None or result.first_token_s is None:
        return int(ttft)
    if result.finish is Finish.ERROR:
        return ttft + (result.finished_s - result.first_token_s > slo.tpot_s * max(1, life.tokens - 1))
    return ttft + (result.tpot_s is not None and result.tpot_s > slo.tpot_s)


def test_a_deadline_costs_at_the_instant_that_it_passes() -> None:
    ledger = Ledger(0.0)
    ledger.arrived(make_request("r", max_tokens=11), Slo(1.0, 0.1))
    assert ledger.settle(0.9).slo == 0
    assert ledger.settle(1.1).slo == 1
    ledger.first_token("r", 1.5)
    assert ledger.settle(2.4).slo == 0
    # Eleven tokens at 0.1 s each would have been done by 2.5.
    assert ledger.settle(2.6).slo == 1
    assert ledger.settle(9.0).slo == 0


def test_what_is_heard_late_is_taken_back() -> None:
    ledger = Ledger(0.0)
    ledger.arrived(make_request("r"), Slo(1.0))
    assert ledger.settle(2.0) == Cost(2.0, 0.0, 1, 0)
    ledger.first_token("r", 0.5)
    assert ledger.settle(2.0) == Cost(-1.5, 1.5, -1, 0)


def test_requests_that_never_arrived_are_nobody_s() -> None:
    ledger = Ledger(0.0)
    ledger.first_token("r", 1.0)
    ledger.ended(Life(0.0, 1.0, 1.0, 2, Finish.STOP, 0.0).result(0, Slo()))
    assert ledger.settle(5.0) == Cost()


def test_the_reward_weighs_every_term() -> None:
    cost = Cost(ttft_s=2.0, decode_s=3.0, slo=4, failures=5)
    assert cost.reward(Weights()) == -(2.0 + 3.0 + 4.0 + 150.0)
    weights = Weights(ttft=2.0, decode=0.5, slo=10.0, failure=1.0, scale=2.0)
    assert cost.reward(weights) == -(4.0 + 1.5 + 40.0 + 5.0) / 2
