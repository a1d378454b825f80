"""The fronts under measurement, as processes: StreamServe's over instant lanes, routers over fake servers.

Client and fake servers run on the client's cores, what is measured has the server's cores to itself.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from streamserve.bench.contest import commands
from streamserve.bench.contest.place import Place
from streamserve.bench.contest.process import Process
from streamserve.bench.contest.systems import System
from streamserve.errors import ConfigError

DIRECT = "direct"
TITLES = {
    DIRECT: "a fake server itself",
    "streamserve": "StreamServe's front over instant lanes",
    "application": "vLLM's application over instant lanes, no scheduler",
    "vllm-router": "vllm-router over fake servers",
    "smg": "SMG over fake servers",
}
POLICY = "cache_aware"
"""Of the routers' policies the one that also looks for prompts' common beginnings, as FlowGuard does."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What the fronts have in common. place: the model whose tokenizer is used, and the server's cores."""

    place: Place
    client_cores: tuple[int, ...]
    lanes: int = 2
    interval_ms: float = 0.0


def resolve(name: str, bench: Bench) -> System:
    """The front of this name; a router's may have its policy behind a colon.

    Raises `ConfigError` with the names that there are, and `SetupError` when a router's program is not installed.
    """
    base, _, policy = name.partition(":")
    if base not in TITLES or (policy and base not in commands.ROUTERS):
        routers = " or ".join(commands.ROUTERS)
        raise ConfigError(
            f"there is no front {name!r}: name some of {', '.join(TITLES)}; {routers} also as NAME:POLICY"
        )
    processes = _processes(base, policy or POLICY, bench)
    title = f"{TITLES[base]} ({policy or POLICY})" if base in commands.ROUTERS else TITLES[base]
    return System(name, title, f"http://127.0.0.1:{processes[-1].port}", bench.place.model, tuple(processes))


def _processes(base: str, policy: str, bench: Bench) -> Sequence[Process]:
    if base == DIRECT:
        return [_fake(bench, 0)]
    if base in commands.ROUTERS:
        fakes = [_fake(bench, place) for place in range(bench.lanes)]
        return [*fakes, commands.router(bench.place, base, fakes, policy)]
    more = ["--straight"] if base == "application" else []
    return [_front(bench, base, "--lanes", str(bench.lanes), "--model", bench.place.model, *more)]


def _fake(bench: Bench, place: int) -> Process:
    return _module("fake_server", f"fake-{place}", bench, bench.client_cores)


def _front(bench: Bench, name: str, *arguments: str) -> Process:
    return _module("instant_server", name, bench, bench.place.cores, *arguments)


def _module(module: str, name: str, bench: Bench, cores: tuple[int, ...], *arguments: str) -> Process:
    port = bench.place.port()
    common = ["--port", str(port), "--interval-ms", str(bench.interval_ms)]
    argv = (sys.executable, "-m", f"streamserve.bench.{module}", *common, *arguments)
    return Process(name, argv, port, f"http://127.0.0.1:{port}/health", cores)
