"""Ledger: the totals of a simulated lane, and what its engine reports after each step."""

from collections.abc import Callable

from streamserve.lanes.sim.batch import Batch
from streamserve.lanes.sim.meter import Meter, Report
from streamserve.lanes.sim.stretch import Stretch

OnReport = Callable[[Report], None]


class Ledger:
    """Counts the steps of one engine, on top of what the lane's engines before it counted.

    `report` is the same object until a step has ended. on_report: told of every one that ends a stretch.
    """

    def __init__(self, batch: Batch, meter: Meter, before: Report, on_report: OnReport | None = None) -> None:
        self._batch = batch
        self._meter = meter
        self._last = before.idle()
        self._shown = self._last
        self._shown_until_s = 0.0
        self._on_report = on_report

    @property
    def last(self) -> Report:
        """As of the last stretch that has ended."""
        return self._last

    def report(self, stretch: Stretch | None, at_s: float) -> Report:
        """After the last step that had ended at this instant, not before the present stretch."""
        if stretch is None or at_s < self._shown_until_s:
            return self._shown
        done = stretch.done(at_s)
        if done:
            self._shown = self._within(stretch, done)
        self._shown_until_s = stretch.instant(done + 1) if done < stretch.steps else stretch.end_s
        return self._shown

    def began(self, stretch: Stretch) -> None:
        """Its first step has not ended yet."""
        self._shown_until_s = stretch.first_s

    def ended(self, stretch: Stretch, steps: int, at_s: float, gained: int, first_tokens: int) -> None:
        """So many of its steps are all that it made; the batch is as it is after them.

        gained: tokens of its decoding requests. first_tokens: of the requests whose prompts it computed.
        """
        decoding = len(stretch.decoding)
        self._meter.worked(stretch.start_s, at_s, steps, gained + first_tokens)
        if decoding:
            self._meter.gained(gained / (steps * decoding), steps)
        self._settle(self._after(stretch, steps, at_s, gained, first_tokens))

    def changed(self, at_s: float) -> None:
        """Requests came or went without a step."""
        batch = self._batch
        self._settle(
            Report(at_s, len(batch.running), batch.waiting, batch.cache.share, batch.queued_tokens, *self._last[5:])
        )

    def _settle(self, report: Report) -> None:
        self._last = self._shown = report
        self._shown_until_s = 0.0
        if self._on_report is not None:
            self._on_report(report)

    def _after(self, stretch: Stretch, steps: int, at_s: float, gained: int, first_tokens: int) -> Report:
        """Totals after the first so many steps of a stretch, and the batch as it is."""
        last, batch = self._last, self._batch
        return Report(
            at_s,
            len(batch.running),
            batch.waiting,
            batch.cache.share,
            batch.queued_tokens,
            stretch.tokens(steps - 1),
            last.steps + steps,
            last.prompt_tokens + stretch.prompt_tokens,
            last.output_tokens + gained + first_tokens,
            last.draft_tokens + stretch.verified(steps),
            last.accepted_tokens + gained - steps * len(stretch.decoding),
        )

    def _within(self, stretch: Stretch, steps: int) -> Report:
        cache, gains = self._batch.cache, stretch.gained(steps)
        more = sum(
            max(0, cache.of(running.context + gained) - running.blocks)
            for running, gained in zip(stretch.decoding, gains, strict=True)
        )
        first_tokens = sum(sequence.to_compute - sequence.computed == tokens for sequence, tokens in stretch.chunks)
        after = self._after(stretch, steps, stretch.instant(steps), sum(gains), first_tokens)
        return after._replace(kv_used=min(1.0, (cache.used + more) / cache.blocks))
