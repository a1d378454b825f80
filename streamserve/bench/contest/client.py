"""The load generator: vLLM's own benchmark client, imported once and kept for every run."""

import asyncio
import itertools
import math
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from streamserve.bench.contest.cell import Sample, Watched
from streamserve.bench.contest.place import Place
from streamserve.bench.contest.reading import Saved, read, samples
from streamserve.bench.contest.server import Serving
from streamserve.bench.contest.watch import watch, watch_clock
from streamserve.errors import ConfigError, SetupError
from streamserve.lanes.vllm import environment
from streamserve.workload import arrivals as processes

__all__ = ["Ask", "Client", "started", "watch"]

MODULE = "streamserve.lanes.vllm.benchmark"
IMPORT_S = 180.0
GRACE_S = 60.0
"""For loading the tokenizer before a run and for counting afterwards."""
BURST = "burst"


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of a run."""

    prompt: str
    """The user's message; every server applies its own chat template to it."""
    output_tokens: int
    """Exactly this many are generated."""


class Client:
    """Drives servers, one run at a time."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._log = place.folder / "client.log"
        self._child: asyncio.subprocess.Process | None = None
        self._imported = False
        self._busy = asyncio.Lock()
        self._numbers = itertools.count()

    async def drive(
        self, serving: Serving, requests: Sequence[Ask], rate: float, arrivals: str, seed: int, timeout_s: float
    ) -> tuple[float, tuple[Sample, ...]]:
        """Send the requests in their order, open loop; the run's duration in seconds and a sample of each, in order.

        rate: requests per second, exact over the whole run. arrivals: poisson, gamma:CV, burst (all at once, whatever
        the rate), or another process of `streamserve.workload.arrivals`, as trace:FILE, played at the rate.
        timeout_s: from the first request on; what has not ended by then is cut off and counted as failed.
        Raises `ConfigError` for arrivals that it does not know or that take longer than that, and `SetupError` when the
        client itself fails.
        """
        saved, seen = await self._drive(serving, requests, rate, arrivals, seed, timeout_s)
        return saved.duration, seen

    async def drive_watched(
        self, serving: Serving, requests: Sequence[Ask], rate: float, arrivals: str, seed: int, timeout_s: float
    ) -> tuple[float, tuple[Sample, ...], tuple[Watched, ...]]:
        """`drive`, and how a StreamServe server's lanes stood meanwhile, on the same clock; () for other servers."""
        stop = asyncio.Event()
        watching = asyncio.create_task(watch_clock(serving, stop))
        try:
            saved, seen = await self._drive(serving, requests, rate, arrivals, seed, timeout_s)
        finally:
            stop.set()
            looked = await watching
        first_s = min(saved.start_times)
        during = (replace(each, at_s=each.at_s - first_s) for each in looked if each.at_s >= first_s)
        return saved.duration, seen, tuple(during)

    async def _drive(
        self, serving: Serving, requests: Sequence[Ask], rate: float, arrivals: str, seed: int, timeout_s: float
    ) -> tuple[Saved, tuple[Sample, ...]]:
        sending, offsets_s = _sending(arrivals, rate, len(requests), seed)
        last_s = 0.0 if arrivals == BURST else offsets_s[-1] if offsets_s else len(requests) / rate
        if last_s >= timeout_s:
            raise ConfigError(
                f"the last of {len(requests)} requests comes after {last_s:.0f} s, and the run ends after "
                f"{timeout_s:g} s: send fewer, or faster, or let it last longer"
            )
        async with self._busy:
            prompts, result = self._files()
            prompts.write_bytes(b"".join(_line(each) for each in requests))
            argv = [*self._arguments(serving, prompts, len(requests), seed), *sending, *_saving(result)]
            await self._job({"argv": argv, "limit_s": timeout_s, "offsets_s": offsets_s}, timeout_s)
            saved = read(result)
        return saved, samples(saved, [each.output_tokens for each in requests])

    def _files(self) -> tuple[Path, Path]:
        """Where the next run's prompts and its result go; those of earlier runs stay."""
        folder = self._place.folder / "client"
        folder.mkdir(exist_ok=True)
        paths = (folder / f"run-{number}" for number in self._numbers)
        run = next(path for path in paths if not path.with_suffix(".jsonl").exists())
        return run.with_suffix(".jsonl"), run.with_suffix(".json")

    def _arguments(self, serving: Serving, prompts: Path, count: int, seed: int) -> list[str]:
        tokenizer = serving.system.tokenizer
        return [
            *("--backend", "openai-chat", "--base-url", serving.url, "--endpoint", "/v1/chat/completions"),
            *("--model", tokenizer, "--served-model-name", serving.model),
            *("--dataset-name", "custom", "--dataset-path", str(prompts), "--custom-output-len", "-1"),
            *("--skip-chat-template", "--disable-shuffle", "--num-prompts", str(count)),
            *("--ignore-eos", "--temperature", "0", "--seed", str(seed), "--disable-tqdm"),
        ]

    async def start(self) -> asyncio.subprocess.Process:
        """Start the process unless it runs; it imports vLLM in the background of what comes next."""
        if self._child is None or self._child.returncode is not None:
            with self._log.open("ab") as output:
                self._child = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", MODULE),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=output,
                    env=_environment(self._place.device),
                    start_new_session=True,
                )
            self._imported = False
        return self._child

    async def aclose(self) -> None:
        """End the process, and with it all requests that it has under way; `drive` starts another."""
        if self._child is not None:
            if self._child.returncode is None:
                self._child.kill()
            await self._child.wait()
            self._child = None

    async def _job(self, job: dict[str, object], timeout_s: float) -> None:
        child = await self.start()
        assert child.stdin is not None
        try:
            if not self._imported:
                await self._answer(child, IMPORT_S)
                self._imported = True
            child.stdin.write(msgspec.json.encode(job) + b"\n")
            answer = await self._answer(child, timeout_s + GRACE_S)
        except BaseException:
            # Interrupted, or too late: its requests and its answer would fall into the next run.
            await self.aclose()
            raise
        if "error" in answer:
            raise SetupError(f"`vllm bench serve` failed: {answer['error']}; look into {self._log}")

    async def _answer(self, child: asyncio.subprocess.Process, limit_s: float) -> dict[str, str]:
        """The next line of the process. Raises `SetupError` when it has ended or says nothing in time."""
        assert child.stdout is not None
        try:
            async with asyncio.timeout(limit_s):
                line = await child.stdout.readline()
        except TimeoutError as error:
            raise SetupError(f"`vllm bench serve` said nothing for {limit_s:g} s; look into {self._log}") from error
        if not line:
            raise SetupError(f"`vllm bench serve` has ended with {await child.wait()}; look into {self._log}")
        return msgspec.json.decode(line, type=dict[str, str])


@asynccontextmanager
async def started(place: Place) -> AsyncIterator[Client]:
    """A client whose process imports vLLM in the background of what comes next; it ends on the way out."""
    client = Client(place)
    try:
        await client.start()
        yield client
    finally:
        await client.aclose()


def _environment(device: str) -> dict[str, str]:
    """As of StreamServe's own front: a client computes nothing, so what engines preload is no use to it."""
    shared = {name: value for name, value in environment.shared(device).items() if name != "LD_PRELOAD"}
    # It trusts the environment's proxies, which know nothing of this machine's own servers.
    direct = ",".join(filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), "127.0.0.1,localhost"]))
    return os.environ | shared | {"NO_PROXY": direct, "no_proxy": direct}


def _sending(arrivals: str, rate: float, count: int, seed: int) -> tuple[list[str], list[float] | None]:
    """The client's arguments for these arrivals, and when each request is sent if the client cannot draw it itself.

    Raises `ConfigError`.
    """
    if arrivals == BURST:
        return ["--request-rate", "inf"], None
    if not (math.isfinite(rate) and rate > 0):
        raise ConfigError(f"the rate must be above 0, got {rate:g}")
    process = processes.parse(arrivals)
    if process.kind in ("poisson", "gamma"):
        return ["--request-rate", repr(rate), "--burstiness", repr(1 / process.cv**2)], None
    times_s = list(itertools.islice(process.times(rate, np.random.default_rng(seed)), count))
    if len(times_s) < count:
        raise ConfigError(f"{arrivals} has {len(times_s)} arrivals, {count} requests are to be sent: send fewer")
    return [], processes.stretched(times_s, rate)


def _line(ask: Ask) -> bytes:
    return msgspec.json.encode({"prompt": ask.prompt, "output_tokens": ask.output_tokens}) + b"\n"


def _saving(result: Path) -> list[str]:
    folder, name = str(result.parent), result.name
    return ["--save-result", "--save-detailed", "--result-dir", folder, "--result-filename", name]
