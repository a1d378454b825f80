"""Host: what simulated lanes of one machine share, who works at the same time and how fast the machine is today."""

from typing import Protocol

import numpy as np

from streamserve.lanes.sim.calibration import Calibration

BLOCK_EPOCHS = 8
"""Consecutive epochs that are drawn together: slow times of a machine come in runs."""


class Worker(Protocol):
    """A lane's engine."""

    def retime(self) -> None:
        """The host became faster or slower for it: from its next step on."""
        ...


class Host:
    """Coupling and noise of the lanes of one machine.

    Noise is piecewise constant: epochs of residuals, drawn in blocks as they were measured (block bootstrap, Kuensch
    1989), the same for all lanes of the host.
    """

    def __init__(self, calibration: Calibration, rng: np.random.Generator, noise: bool = True) -> None:
        self._coupling = calibration.coupling
        self._noise = calibration.noise
        self._residuals = np.exp(np.array(calibration.noise.log_residuals, dtype=float))
        self._rng = rng
        self.noisy = noise
        """Whether epochs and steps differ at all."""
        self._uneven = noise and len(self._residuals) > 0
        self.factor = self._coupling[0]
        """How many times longer steps take now because of the lanes that work."""
        self._epochs: list[float] = []
        self._origin_s: float | None = None
        self._working: dict[Worker, None] = {}

    def begin(self, worker: Worker) -> None:
        """It has work from now on; does nothing if it had."""
        if worker not in self._working:
            self._working[worker] = None
            self._count(worker)

    def end(self, worker: Worker) -> None:
        """It has no work any more; does nothing if it had none."""
        if worker in self._working:
            del self._working[worker]
            self._count(worker)

    def end_s(self, start_s: float, work_s: float) -> float:
        """When work that begins then is done. work_s: seconds of it without noise."""
        if not self._uneven:
            return start_s + work_s
        at_s, left_s, epoch = start_s, work_s, self._epoch(start_s)
        factors = self._epochs
        while True:
            factor = factors[epoch] if epoch < len(factors) else self._factor(epoch)
            edge_s = self._edge_s(epoch)
            end_s = at_s + left_s * factor
            if end_s <= edge_s:
                return end_s
            left_s -= max(0.0, edge_s - at_s) / factor
            at_s, epoch = edge_s, epoch + 1

    def work_s(self, start_s: float, until_s: float) -> float:
        """Seconds of work, without noise, that get done between these instants: the inverse of `end_s`."""
        if not self._uneven:
            return until_s - start_s
        at_s, done_s, epoch = start_s, 0.0, self._epoch(start_s)
        while at_s < until_s:
            edge_s = min(until_s, self._edge_s(epoch))
            done_s += max(0.0, edge_s - at_s) / self._factor(epoch)
            at_s, epoch = max(at_s, edge_s), epoch + 1
        return done_s

    def _count(self, besides: Worker) -> None:
        """Another number of lanes works: tell them where that makes a difference."""
        before = self.factor
        self.factor = self._coupling[min(max(1, len(self._working)), len(self._coupling)) - 1]
        if self.factor != before:
            for worker in list(self._working):
                if worker is not besides:
                    worker.retime()

    def _epoch(self, at_s: float) -> int:
        if self._origin_s is None:
            self._origin_s = at_s
        return max(0, int((at_s - self._origin_s) / self._noise.epoch_s))

    def _edge_s(self, epoch: int) -> float:
        assert self._origin_s is not None
        return self._origin_s + (epoch + 1) * self._noise.epoch_s

    def _factor(self, epoch: int) -> float:
        while epoch >= len(self._epochs):
            count = len(self._residuals)
            first = int(self._rng.integers(count))
            self._epochs += [float(self._residuals[(first + n) % count]) for n in range(min(BLOCK_EPOCHS, count))]
        return self._epochs[epoch]
