"""A fake lane that works in steps as an engine does, each as long as a known step model says."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from streamserve.clock import now
from streamserve.protocols import TokenStream
from streamserve.signals import DepthControl, LaneSignals
from streamserve.types import Chunk, Finish, KVHandle, LaneId, LaneState, Prefilled, Request
from tests.lanes.sim.logs import TRUTH

Note = Callable[[int, float, Mapping[str, Any], int], None]
STEP_TOKENS = 2048
TRANSFER_S = 0.005


@dataclass(eq=False)
class Sequence_:
    """One request on the lane; it repeats its prompt."""

    request: Request
    computed: int
    made: int
    chunks: asyncio.Queue[Chunk] = field(default_factory=asyncio.Queue)


class SteppedLane:
    """Decodes first, then prompts within the budget; every draft is right."""

    def __init__(self, place: int, note: Note) -> None:
        self.id = LaneId(f"lane-{place}")
        self._place = place
        self._note = note
        self._depth = 0
        self._running: list[Sequence_] = []
        self._work: asyncio.Task[None] | None = None
        self.calls: list[str] = []

    def signals(self) -> LaneSignals:
        return LaneSignals(
            self.id,
            LaneState.READY,
            now(),
            running=len(self._running),
            kv_tokens=40_000,
            block_tokens=128,
            depth=DepthControl(),
        )

    async def call(self, method: str, *_: object) -> object:
        self.calls.append(method)
        return True

    async def control(self, control: DepthControl | None, ttl_s: float) -> None:
        self._depth = control.depth if control is not None else 0

    async def prefill(self, request: Request) -> Prefilled:
        (chunk,) = [chunk async for chunk in self._add(Sequence_(request, 0, 0), 1)]
        return Prefilled(Chunk(chunk.token_ids, chunk.at_s), KVHandle(self.id, {}))

    async def decode(self, request: Request, kv: KVHandle | None = None, sent: Sequence[int] = ()) -> TokenStream:
        if kv is not None:
            await asyncio.sleep(TRANSFER_S)
        return self._add(Sequence_(request, request.prompt_tokens if kv else 0, len(sent)), request.max_tokens)

    def _add(self, sequence: Sequence_, tokens: int) -> "Stream":
        self._running.append(sequence)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._run())
        return Stream(self, sequence, tokens)

    def drop(self, sequence: Sequence_) -> None:
        if sequence in self._running:
            self._running.remove(sequence)

    async def _run(self) -> None:
        while self._running:
            decoding = [each for each in self._running if each.computed >= each.request.prompt_tokens]
            left = STEP_TOKENS - len(decoding) * (1 + self._depth)
            chunks = []
            for each in self._running:
                if each not in decoding and left > 0:
                    tokens = min(left, each.request.prompt_tokens - each.computed)
                    chunks.append((each, tokens))
                    left -= tokens
            drafts = len(decoding) * self._depth
            report = {
                "prefill_tokens": sum(tokens for _, tokens in chunks),
                "requests": len(decoding),
                "draft_tokens": drafts,
                "decode_tokens": len(decoding) + drafts,
                "context_tokens": sum(each.computed + each.made for each in decoding),
                "attention_tokens": float(sum(tokens * (each.computed + tokens / 2) for each, tokens in chunks)),
            }
            report["step_s"] = _step_s(report)
            await asyncio.sleep(report["step_s"])
            for each in decoding:
                self._make(each, 1 + self._depth)
            for each, tokens in chunks:
                each.computed += tokens
                if each.computed >= each.request.prompt_tokens:
                    self._make(each, 1)
            self._note(self._place, now(), report, len(self._running))

    def _make(self, sequence: Sequence_, tokens: int) -> None:
        prompt = sequence.request.prompt_token_ids
        made = [prompt[(sequence.made + place) % len(prompt)] for place in range(tokens)]
        sequence.made += tokens
        sequence.chunks.put_nowait(Chunk(made, now()))


class Stream:
    """Ends after so many tokens."""

    def __init__(self, lane: SteppedLane, sequence: Sequence_, tokens: int) -> None:
        self._lane = lane
        self._sequence = sequence
        self._left = tokens

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Chunk:
        if self._left <= 0:
            raise StopAsyncIteration
        chunk = await self._sequence.chunks.get()
        token_ids = chunk.token_ids[: self._left]
        self._left -= len(token_ids)
        if self._left <= 0:
            self._lane.drop(self._sequence)
            return Chunk(token_ids, chunk.at_s, Finish.LENGTH)
        return Chunk(token_ids, chunk.at_s)

    async def aclose(self) -> None:
        self._left = 0
        self._lane.drop(self._sequence)


def _step_s(report: Mapping[str, Any]) -> float:
    from streamserve.lanes.sim.fit_logs import Step
    from streamserve.lanes.sim.fit_step import modelled

    step = Step(
        0,
        "decode",
        0,
        0.0,
        0.0,
        report["prefill_tokens"],
        report["requests"],
        report["draft_tokens"],
        report["context_tokens"],
        report["attention_tokens"],
    )
    return float(modelled(TRUTH, [step])[0])
