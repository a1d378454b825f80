"""Simulated runs: a plan through a plant, from the first arrival to the last result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streamserve import virtual
from streamserve.config import Config
from streamserve.lanes.sim.answers import Answers
from streamserve.lanes.sim.calibration import Calibration
from streamserve.lanes.sim.work import Found, SimWork, sim_request
from streamserve.protocols import Router
from streamserve.signals import LaneSignals
from streamserve.simulation.options import SimOptions
from streamserve.simulation.plant import simulated
from streamserve.types import LaneId, Request, Result, Slo
from streamserve.workload import openloop
from streamserve.workload.openloop import MakeRequest, OnResult, Run, Scheduler
from streamserve.workload.plan import Plan, Planned

MIX = "mix"


@dataclass(frozen=True, slots=True)
class Simulation:
    """What came of a plan, and what the lanes reported at its end."""

    run: Run
    lanes: Mapping[LaneId, LaneSignals]
    restarts: int
    """Of all lanes together."""


def simulate(
    plan: Plan,
    config: Config,
    calibration: Calibration,
    options: SimOptions,
    router: Router | None = None,
    announce_slo: bool = True,
) -> Simulation:
    """Run the plan in virtual time on lanes that were never used before; the same arguments give the same results.

    router: instead of the configured one; it must be new, too. announce_slo: as in `openloop.send`.
    Raises `ConfigError`.
    """

    async def main() -> Simulation:
        keepers: list[OnResult] = []

        def ended(result: Result) -> None:
            for keep in keepers:
                keep(result)

        def open_scheduler(keep: OnResult) -> Scheduler:
            keepers.append(keep)
            return plant.serving.scheduler

        plant = simulated(config, calibration, options, ended, router)
        make = maker(calibration, options.seed, options.drafts)
        await plant.start()
        try:
            run = await openloop.send(plan, open_scheduler, make, announce_slo=announce_slo)
            snapshots = {lane_id: lane.signals() for lane_id, lane in plant.lanes.items()}
        finally:
            await plant.aclose()
        return Simulation(run, snapshots, sum(each.restarts for each in snapshots.values()))

    return virtual.run(main())


def maker(calibration: Calibration, seed: int = 0, drafts: Sequence[Sequence[Found | None]] = ()) -> MakeRequest:
    """Makes requests that know their future, for this calibration's lanes.

    A workload whose drafts were not measured has those of all workloads together. seed: other luck with every draft.
    drafts: of each request of the plan, replayed; none = those of a recorded answer, or drawn where none was recorded.
    """
    recorded = calibration.answers
    if recorded:
        recorded = {MIX: tuple(text for texts in recorded.values() for text in texts)} | recorded
    answers = {workload: Answers(texts) for workload, texts in recorded.items()}

    def make(request_id: str, number: int, planned: Planned, arrived_s: float, slo: Slo) -> Request:
        workload = planned.workload if planned.workload in calibration.acceptance else MIX
        output_tokens = planned.max_tokens if planned.output_tokens is None else planned.output_tokens
        own = seed * 1_000_003 + number
        found: Sequence[Found | None] | None = None
        if drafts:
            found = drafts[number]
        elif workload in answers:
            found = answers[workload].one(own, output_tokens)
        work = SimWork(output_tokens, workload, own, found)
        return sim_request(request_id, planned.prompt_token_ids, planned.max_tokens, arrived_s, work, slo)

    return make
