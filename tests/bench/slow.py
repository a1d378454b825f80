"""A fake lane whose work takes time, and which answers calls to its engine."""

import asyncio

from tests.fakes import FakeLane


class SlowLane(FakeLane):
    """Every turn takes `turn_s`; `refusals`: how often the prefix cache is not reset before it is."""

    def __init__(self, id: str = "lane-0", turn_s: float = 0.1) -> None:
        super().__init__(id)
        self.turn_s = turn_s
        self.refusals = 0

    async def call(self, method: str, *arguments: object) -> object:
        self.calls.append(("call", method))
        if method == "streamserve_rule_cost":
            return {"steps": 10, "rule_s": 0.01, "step_s": 1.0}
        if method != "reset_prefix_cache":
            return True
        self.refusals -= 1
        return self.refusals < 0

    async def _turn(self, point: str) -> None:
        await super()._turn(point)
        await asyncio.sleep(self.turn_s)
