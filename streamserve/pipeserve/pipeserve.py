"""PipeServe: a request on its stream pair, the KV handed from the prefill lane to the decode lane."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from streamserve.errors import LaneLost, UnknownLane
from streamserve.protocols import Lane, TokenStream
from streamserve.signals import DepthControl, LaneSignals
from streamserve.stream import Stream, settle
from streamserve.types import Chunk, Decision, KVHandle, LaneId, Prefilled, Request


class PipeServe:
    """The `Engine` over any lanes."""

    def __init__(self, lanes: Mapping[LaneId, Lane]) -> None:
        self._lanes = lanes

    def signals(self) -> dict[LaneId, LaneSignals]:
        """Every lane's last snapshot."""
        return {lane_id: lane.signals() for lane_id, lane in self._lanes.items()}

    def stream(
        self, request: Request, decision: Decision, on_prefilled: Callable[[], None], sent: Sequence[int] = ()
    ) -> TokenStream:
        """Run the request on the decision's pair, from the first read on; reading raises `LaneLost`.

        sent: output tokens that the client already has; the decode lane alone computes their KV and goes on after them.
        """
        prefill, decode = self._lanes[decision.prefill], self._lanes[decision.decode]
        if decision.max_depth is not None:
            caps = [cap for cap in (decision.max_depth, request.max_depth) if cap is not None]
            request = replace(request, max_depth=min(caps))
        if decision.disaggregated and not sent:
            return Stream(_two_lanes(request, prefill, decode, on_prefilled))
        return Stream(_one_lane(request, decode, on_prefilled, sent))

    async def control(self, lane: LaneId, control: DepthControl | None, ttl_s: float) -> None:
        """As `Lane.control`. Raises `UnknownLane` as well."""
        if lane not in self._lanes:
            raise UnknownLane(f"no lane {lane!r}; lanes are {', '.join(self._lanes)}")
        await self._lanes[lane].control(control, ttl_s)


async def _one_lane(
    request: Request, lane: Lane, on_prefilled: Callable[[], None], sent: Sequence[int]
) -> AsyncGenerator[Chunk, None]:
    stream = await lane.decode(request, None, sent)
    last: Chunk | None = None
    try:
        async for chunk in stream:
            if last is None:
                on_prefilled()
            last = chunk
            yield chunk
    except BaseException:
        if last is None or last.finish is None:
            await settle(stream.aclose())
        raise


async def _two_lanes(
    request: Request, prefill: Lane, decode: Lane, on_prefilled: Callable[[], None]
) -> AsyncGenerator[Chunk, None]:
    prefilled = await prefill.prefill(request)
    if prefilled.kv is None or prefilled.chunk.finish is not None:
        try:
            on_prefilled()
        finally:
            if prefilled.kv is not None:
                await settle(_release(decode, prefilled.kv))
        yield prefilled.chunk
        return
    stream = await _hand_over(request, prefilled, prefilled.kv, decode, on_prefilled)
    chunk = prefilled.chunk
    try:
        if request.continuable:
            yield chunk
        async for chunk in stream:
            yield chunk
    except BaseException:
        if chunk.finish is None:
            await settle(stream.aclose())
        raise


async def _hand_over(
    request: Request, prefilled: Prefilled, kv: KVHandle, decode: Lane, on_prefilled: Callable[[], None]
) -> TokenStream:
    try:
        on_prefilled()
        return await decode.decode(request, kv, sent=prefilled.chunk.token_ids if request.continuable else ())
    except BaseException:
        await settle(_release(decode, kv))
        raise


async def _release(decode: Lane, kv: KVHandle) -> None:
    # The fetching lane speaks for the request; when that lane is gone, the owner's own time-out frees the KV.
    with suppress(LaneLost):
        await decode.release(kv)
