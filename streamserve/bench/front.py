"""`python -m streamserve.bench.front`: what a front costs by itself, StreamServe's beside vllm-router and SMG.

Behind every front is something that answers at once: instant lanes behind StreamServe's, fake OpenAI servers behind the
routers. A client keeps so many streams open, each a chat completion of so many tokens, and follows each that ends by
another. What a front adds is what its streams take beyond those of the client on a fake server itself in the same turn.

The fronts do not do the same work. StreamServe's applies the chat template, tokenizes the prompt and turns every token
into text and an event, which the routers leave to the engines' own API servers behind them: there it is paid as well,
once per engine, and is not measured here. `application` is that part alone, vLLM's own server code over the same lanes
without StreamServe's scheduler and router. Client and fake servers share the client's cores; a front has the server's
cores for itself. CPU ms/request is of the front's processes alone, so it tells what a front costs also where the client
is what limits the rate: then `client busy` is near 1.
"""

import argparse
import asyncio
import os
import random
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import psutil
import uvloop

from streamserve.bench import front_client, front_report, fronts, report
from streamserve.bench.contest import server
from streamserve.bench.contest.place import Place
from streamserve.bench.contest.server import Serving
from streamserve.bench.contest.systems import System
from streamserve.bench.fake_server import MODEL
from streamserve.bench.front_client import Load, Plan
from streamserve.bench.front_report import Measured
from streamserve.bench.fronts import DIRECT, Bench
from streamserve.bench.steady import steady
from streamserve.config import EMBEDDED_MODEL
from streamserve.errors import SetupError
from streamserve.lanes.vllm.plan import available_cores

WARM_UP_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Cell:
    """What is measured of each front in turn."""

    streams: int
    tokens: int
    repeat: int


def halves(cores: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The client's cores and the server's; of a single core both are that one."""
    middle = len(cores) // 2
    return (tuple(cores[:middle]), tuple(cores[middle:])) if middle else (tuple(cores), tuple(cores))


def cells(streams: Sequence[int], tokens: Sequence[int], repeats: int) -> list[Cell]:
    """All cells of a repeat before the next repeat."""
    return [Cell(each, length, repeat) for repeat in range(repeats) for length in tokens for each in streams]


def cpu_s(pid: int) -> float:
    """CPU time of a process and of those it started."""
    process = psutil.Process(pid)
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(time.user + time.system for time in times)


async def drive(serving: Serving, plan: Plan, cores: Sequence[int]) -> Measured:
    """One run of the client, and what the front took for it. Raises `SetupError` when the client fails."""
    before_s = [cpu_s(pid) for pid in serving.pids]
    client = await asyncio.create_subprocess_exec(
        *front_client.command(plan), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        # Its threads come later and inherit it.
        os.sched_setaffinity(client.pid, cores)
        output, errors = await client.communicate()
    except BaseException:
        if client.returncode is None:
            client.kill()
            await client.wait()
        raise
    if client.returncode:
        raise SetupError(f"the client failed on {serving.system.name}: {errors.decode()[-1000:]}")
    load = msgspec.json.decode(output, type=Load)
    *fakes_s, front_s = [cpu_s(pid) - before for pid, before in zip(serving.pids, before_s, strict=True)]
    if serving.system.name == DIRECT:
        fakes_s, front_s = [front_s], 0.0
    return Measured(serving.system.name, plan.streams, plan.tokens, load, front_s, load.cpu_s + sum(fakes_s))


async def measure(up: Mapping[str, Serving], options: Any, cores: Sequence[int]) -> list[Measured]:
    """Every cell on every front, in an order of its own each time."""
    draw = random.Random(options.seed)
    made = []
    planned = cells(options.concurrency, options.tokens, options.repeats)
    progress = report.Progress(len(planned) * len(up))
    for name, serving in up.items():
        warm = await drive(serving, _plan(serving, 16, WARM_UP_TOKENS, options, seconds=options.warm_up), cores)
        if warm.load.failed:
            raise SetupError(f"{name} did not serve {warm.load.failed} of {warm.load.requests} requests: see its log")
    for cell in planned:
        for name in draw.sample(list(up), len(up)):
            plan = _plan(up[name], cell.streams, cell.tokens, options, seconds=options.seconds)
            measured, _ = await steady(partial(drive, up[name], plan, cores), print)
            made.append(measured)
            progress.step(f"{name}: {cell.streams} x {cell.tokens} tokens, {measured.load.rate:.0f} requests/s")
    return made


def _plan(serving: Serving, streams: int, tokens: int, options: Any, seconds: float) -> Plan:
    port = serving.system.processes[-1].port
    return Plan(port, MODEL, streams, tokens, seconds, prompt_words=options.prompt_words, seed=options.seed)


def chosen(names: Sequence[str] | None, bench: Bench) -> list[System]:
    """The fronts that were asked for, `direct` before them; where none were, all but routers that are not installed.

    Raises `ConfigError` and `SetupError` for those that were asked for.
    """
    if names is not None:
        return [fronts.resolve(name, bench) for name in dict.fromkeys((DIRECT, *names))]
    found = []
    for name in fronts.TITLES:
        try:
            found.append(fronts.resolve(name, bench))
        except SetupError as error:
            print(f"{name} is left out: {error}")
    return found


async def main(options: Any) -> str:
    """Start the fronts, measure, leave `front.json` and `front.md`; the report in Markdown."""
    client_cores, server_cores = halves(available_cores())
    client_cores = tuple(options.client_cores or client_cores)
    server_cores = tuple(options.server_cores or server_cores)
    with tempfile.TemporaryDirectory() as folder:
        place = Place(options.model, server_cores, Path(folder))
        bench = Bench(place, client_cores, options.lanes, options.interval_ms)
        systems = chosen(options.fronts, bench)
        async with AsyncExitStack() as stack:
            up = {
                system.name: await stack.enter_async_context(server.up(system, Path(folder) / system.name))
                for system in systems
            }
            made = await measure(up, options, client_cores)
    said = front_report.text(made, {system.name: system.title for system in systems}, vars(options))
    said += f"\nClient and fake servers on core {_list(client_cores)}, fronts on core {_list(server_cores)}.\n"
    report.write(options.out / "front.json", {"machine": report.machine(), "settings": _plain(options), "runs": made})
    (options.out / "front.md").write_text(said)
    return said


def _list(cores: Sequence[int]) -> str:
    return ", ".join(map(str, cores))


def _plain(options: Any) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fronts", nargs="+", help=f"some of {', '.join(fronts.TITLES)}; routers also as NAME:POLICY")
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 64, 512], help="open streams")
    parser.add_argument("--tokens", nargs="+", type=int, default=[16, 128], help="output tokens of a stream")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a run; each stream asks twice at least")
    parser.add_argument("--warm-up", type=float, default=2.0, help="seconds per front")
    parser.add_argument("--interval-ms", type=float, default=0.0, help="from token to token, 0 = at once")
    parser.add_argument("--prompt-words", type=int, default=60)
    parser.add_argument("--lanes", type=int, default=2, help="instant lanes, and fake servers behind each router")
    parser.add_argument("--model", default=EMBEDDED_MODEL, help="whose tokenizer and chat template are used")
    parser.add_argument("--client-cores", nargs="+", type=int, help="default: the first half of the cores")
    parser.add_argument("--server-cores", nargs="+", type=int, help="default: the other half")
    parser.add_argument("--out", type=Path, default=Path("bench-front"))
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    print(uvloop.run(main(arguments().parse_args())))
