"""Which systems are up: all of them for a whole repeat, or one for a single run where memory does not suffice."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from streamserve.bench.contest.server import Serving
from streamserve.bench.contest.systems import System

Up = Callable[[System], AbstractAsyncContextManager[Serving]]
WarmUp = Callable[[Serving], Awaitable[None]]
Note = Callable[[str], None]

SPARE = 1.2
"""A system is started beside others while this times the memory that the largest so far took is available."""


class Standing:
    """The systems of a contest while it measures.

    entrants: label -> system. apart: every run starts its system and stops it; also so, and said, from the moment on at
    which the memory does not suffice for the next one. available_gib: what the machine has left.
    """

    def __init__(
        self,
        entrants: Mapping[str, System],
        up: Up,
        warm_up: WarmUp,
        available_gib: Callable[[], float],
        note: Note,
        *,
        apart: bool = False,
    ) -> None:
        self._entrants = entrants
        self._up = up
        self._warm_up = warm_up
        self._available_gib = available_gib
        self._note = note
        self._stands: dict[str, tuple[Serving, AsyncExitStack]] = {}
        self._largest_gib = 0.0
        self.apart = apart

    async def stand(self, labels: list[str]) -> None:
        """Have these systems up, the others down. Raises `SetupError` when one does not start."""
        for label in set(self._stands) - set(labels):
            await self._fell(label)
        if self.apart:
            return
        for label in labels:
            if label in self._stands:
                continue
            before_gib = self._available_gib()
            if before_gib < SPARE * self._largest_gib:
                self._note(
                    f"{before_gib:.1f} GiB of memory are left and a system takes about {self._largest_gib:.1f}: "
                    "every run starts and stops its system from here on, as with --apart"
                )
                self.apart = True
                await self.fall()
                return
            await self._stood(label)
            self._largest_gib = max(self._largest_gib, before_gib - self._available_gib())

    @asynccontextmanager
    async def serving(self, label: str) -> AsyncIterator[Serving]:
        """A system to put under load; one that ended by itself meanwhile is started again."""
        stands = self._stands.get(label)
        if stands is not None and not stands[0].stopped.done():
            yield stands[0]
            return
        if stands is not None:
            self._note(f"{label} is started again, for it ended: {stands[0].stopped.result().splitlines()[0]}")
            await self._fell(label)
        serving = await self._stood(label)
        try:
            yield serving
        finally:
            if self.apart:
                await self._fell(label)

    def others(self, label: str) -> list[Serving]:
        """The systems that are up and idle while this one is measured."""
        return [serving for each, (serving, _) in self._stands.items() if each != label]

    async def fall(self) -> None:
        """Stop all systems."""
        for label in list(self._stands):
            await self._fell(label)

    async def _stood(self, label: str) -> Serving:
        async with AsyncExitStack() as stack:
            serving = await stack.enter_async_context(self._up(self._entrants[label]))
            await self._warm_up(serving)
            self._stands[label] = serving, stack.pop_all()
        self._note(f"{label} serves after {serving.start_s:.0f} s")
        return serving

    async def _fell(self, label: str) -> None:
        _, stack = self._stands.pop(label)
        await stack.aclose()
