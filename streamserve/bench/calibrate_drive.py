"""Live lanes driven through the cells of a calibration."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from streamserve.bench import batch, rig
from streamserve.bench.batch import Job
from streamserve.bench.calibrate_log import StepRecorder
from streamserve.bench.calibrate_plan import Agenda, Cell, Decode, Mixed, Prompt, Real, Split, Together
from streamserve.errors import SetupError
from streamserve.lanes.sim.fit_logs import Handover, Hop, Kind, Step
from streamserve.protocols import Lane, TokenStream
from streamserve.signals import DepthControl, DepthMode
from streamserve.specustream.playback import Output
from streamserve.types import NO_SLO, Request

if TYPE_CHECKING:
    from streamserve.lanes.vllm.lane import VllmLane

TOKEN_IDS = (1000, 40000)
"""Of made-up prompts."""
PHRASE_TOKENS = 7
"""A made-up prompt that is decoded repeats a phrase, so that there is always a draft."""
CONTROL_S = 600.0
CELL_LIMIT_S = 120.0
TURN_STEPS = 6
ENDLESS_TOKENS = 1500
"""Output tokens of requests that are aborted when their cell has enough steps; less where the model's limit is near."""

REAL_BATCH = 8
"""Real prompts in one cell, over all lanes."""

clock_s: Callable[[], float] = time.monotonic
"""What engines stamp their outputs with: finer than the event loop's."""

Advance = Callable[[str, float | None], None]
"""Told what is done now, and seconds of measuring so far; None before it begins."""


def greedy(name: str, job: Job) -> Request:
    """A request for vLLM lanes."""
    return rig.greedy(name, job.prompt_token_ids, job.max_tokens, 0.0, NO_SLO)


def logged(recorder: StepRecorder) -> "type[VllmLane]":
    """A lane that tells the recorder of every step."""
    from streamserve.lanes.vllm.controls import REPORT
    from streamserve.lanes.vllm.lane import VllmLane

    class LoggedLane(VllmLane):
        """Reads the report before the lane's meter takes it out of vLLM's statistics."""

        def _take_in(self, outputs: Any) -> None:
            stats = outputs.scheduler_stats
            report = (stats.ec_connector_stats or {}).get(REPORT) if stats is not None else None
            if report is not None:
                left = stats.num_running_reqs + stats.num_waiting_reqs + stats.num_skipped_waiting_reqs
                recorder.note(self._plan.index, outputs.timestamp, report, left)
            super()._take_in(outputs)

    return LoggedLane


class Driver:
    """Ready lanes under measurement.

    real: the real prompts left, by workload. max_len: the longest sequence that the lanes take.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        recorder: StepRecorder,
        real: Sequence[tuple[str, Job]],
        max_len: int,
        rng: np.random.Generator,
    ) -> None:
        self._lanes = {lane.id: lane for lane in lanes}
        self._ordered = list(lanes)
        self._recorder = recorder
        self._real = list(real)
        self._max_len = max_len
        self._rng = rng
        self._cells = 0
        self._requests = 0
        self.hops: list[Hop] = []
        self.handovers: list[Handover] = []
        self.outputs: list[Output] = []

    @property
    def real_left(self) -> int:
        """Real prompts that were not run yet."""
        return len(self._real)

    async def warm_up(self) -> None:
        """Let the lanes meet and do once what they will be measured at."""
        cells: list[Cell] = [Decode(8, 64, 0, 4), Prompt(512)]
        if len(self._ordered) > 1:
            cells += [Split(64), Split(64)]
        for cell in cells:
            await self.run(cell, warm=True)
        self.hops.clear()
        self.handovers.clear()

    async def run(self, cell: Cell, warm: bool = False) -> None:
        """One cell on idle lanes with empty caches. Raises `LaneLost`, and `SetupError` when it does not end."""
        await rig.idle(self._lanes)
        await rig.forget_prefixes(self._lanes)
        self._cells += 1
        turn = self._cells % len(self._ordered)
        lane, other = self._ordered[turn], self._ordered[turn - 1]
        self._recorder.kind = _kind(cell)
        self._recorder.cell = None if warm else self._cells
        try:
            async with asyncio.timeout(CELL_LIMIT_S):
                await self._drive(cell, lane, other)
        except TimeoutError as error:
            raise SetupError(f"{cell} did not end within {CELL_LIMIT_S:g} s: look into the lanes' logs") from error
        finally:
            self._recorder.cell = None

    async def _drive(self, cell: Cell, lane: Lane, other: Lane) -> None:
        match cell:
            case Decode():
                await self._decode(lane, cell)
            case Prompt():
                await self._prompt(lane, cell)
            case Mixed():
                await self._mixed(lane, cell)
            case Together():
                await self._together(lane, other, cell)
            case Split():
                await self._split(other, lane, cell.tokens)
            case Real():
                await self._all_real()

    async def _decode(self, lane: Lane, cell: Decode) -> None:
        async with self._decoding(lane, cell.batch, cell.prompt_tokens, cell.depth):
            await self._recorder.reached(self._place(lane), cell.batch, cell.steps).wait()

    async def _prompt(self, lane: Lane, cell: Prompt) -> None:
        cached = self._tokens(cell.cached_tokens)
        if cached:
            await self._first_token(lane, cached)
        await self._first_token(lane, cached + self._tokens(cell.tokens), note=True)

    async def _mixed(self, lane: Lane, cell: Mixed) -> None:
        async with self._decoding(lane, cell.batch, 32, cell.depth):
            await self._recorder.reached(self._place(lane), cell.batch, 2).wait()
            for _ in range(cell.prompts):
                await self._first_token(lane, self._tokens(cell.tokens))

    async def _together(self, lane: Lane, other: Lane, cell: Together) -> None:
        async with self._decoding(lane, cell.batch, 64, cell.depth):
            await self._recorder.reached(self._place(lane), cell.batch, 2).wait()
            for turn in range(cell.turns):
                steps = self._recorder.reached(self._place(lane), cell.batch, TURN_STEPS)
                if turn % 2 == 0:
                    await steps.wait()
                elif cell.other_prompt_tokens:
                    while not steps.is_set():
                        await self._first_token(other, self._tokens(cell.other_prompt_tokens))
                else:
                    async with self._decoding(other, cell.batch, 64, cell.depth):
                        await self._recorder.reached(self._place(other), cell.batch, 1).wait()
                        await self._recorder.reached(self._place(lane), cell.batch, TURN_STEPS).wait()
                    await rig.idle({other.id: other})

    async def _split(self, prefill: Lane, decode: Lane, tokens: int) -> None:
        name = self._name()
        request = greedy(name, Job(tuple(self._tokens(tokens)), 4))
        prefilled = await prefill.prefill(request)
        assert prefilled.kv is not None, "a request of several tokens is held for its decode lane"
        dispatched_s = clock_s()
        stream = await decode.decode(request, prefilled.kv, prefilled.chunk.token_ids)
        step, at_s, received_s = await self._until_first(decode, stream)
        if step is not None:
            self.handovers.append(Handover(tokens, Hop(dispatched_s, at_s, received_s, step.time_s)))

    async def _all_real(self) -> None:
        for lane in self._ordered:
            await self._control(lane, DepthControl(DepthMode.SPECUSTREAM))
        taken, self._real = self._real[:REAL_BATCH], self._real[REAL_BATCH:]
        shares = [taken[place :: len(self._ordered)] for place in range(len(self._ordered))]
        runs = [
            batch.run(lane, [job for _, job in share], self._name(), greedy)
            for lane, share in zip(self._ordered, shares, strict=True)
        ]
        for share, made in zip(shares, await asyncio.gather(*runs), strict=True):
            for (workload, job), output in zip(share, made, strict=True):
                self.outputs.append(Output(workload, job.prompt_token_ids, output.token_ids))

    @asynccontextmanager
    async def _decoding(self, lane: Lane, size: int, prompt_tokens: int, depth: int) -> AsyncIterator[None]:
        """A batch that decodes until the end of the block."""
        await self._control(lane, DepthControl(DepthMode.FIXED, depth=depth))
        output_tokens = min(ENDLESS_TOKENS, self._max_len - prompt_tokens)
        jobs = [Job(tuple(self._phrases(prompt_tokens)), output_tokens) for _ in range(size)]
        running = asyncio.create_task(batch.run(lane, jobs, self._name(), greedy))
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def _first_token(self, lane: Lane, tokens: Sequence[int], note: bool = False) -> None:
        request = greedy(self._name(), Job(tuple(tokens), 1))
        dispatched_s = clock_s()
        step, at_s, received_s = await self._until_first(lane, await lane.decode(request))
        if note and step is not None:
            self.hops.append(Hop(dispatched_s, at_s, received_s, step.time_s))

    async def _until_first(self, lane: Lane, stream: TokenStream) -> tuple[Step | None, float, float]:
        """Read a stream to its end; the step that made its first token, when that ended and when the token came."""
        first = await anext(stream)
        received_s = clock_s()
        step = self._recorder.step_at(self._place(lane), first.at_s)
        async for _ in stream:
            pass
        return step, first.at_s, received_s

    async def _control(self, lane: Lane, control: DepthControl) -> None:
        if lane.signals().depth is not None:
            await lane.control(control, CONTROL_S)

    def _place(self, lane: Lane) -> int:
        return self._ordered.index(lane)

    def _name(self) -> str:
        self._requests += 1
        return f"calibrate-{self._requests}"

    def _tokens(self, count: int) -> list[int]:
        return [int(token) for token in self._rng.integers(*TOKEN_IDS, size=count)]

    def _phrases(self, count: int) -> list[int]:
        phrase = self._tokens(PHRASE_TOKENS)
        return [phrase[place % PHRASE_TOKENS] for place in range(count)]


async def drive(driver: Driver, agenda: Agenda, seconds: float, advance: Advance) -> None:
    """Run cells until the time is over, and then those without which there is no fit."""
    begun_s = clock_s()
    while (following := agenda.next(needed=(at_s := clock_s()) - begun_s >= seconds)) is not None:
        subject, cell = following
        advance(str(cell), at_s - begun_s)
        await driver.run(cell)
        agenda.spent(subject, clock_s() - at_s)
        if isinstance(cell, Real) and not driver.real_left:
            agenda.end(subject)


def _kind(cell: Cell) -> Kind:
    kinds: dict[type, Kind] = {
        Decode: "decode",
        Prompt: "prompt",
        Mixed: "mixed",
        Together: "together",
        Split: "handover",
        Real: "real",
    }
    return kinds[type(cell)]
