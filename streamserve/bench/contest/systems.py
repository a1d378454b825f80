"""The systems of the contest by their names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from streamserve import config as configuration
from streamserve.bench.contest import commands
from streamserve.bench.contest.commands import Engine
from streamserve.bench.contest.place import Place
from streamserve.bench.contest.process import Process
from streamserve.errors import ConfigError
from streamserve.lanes.vllm.plan import plan

USAGE = (
    "there are streamserve[:CONFIG], vllm, vllm-spec[:DEPTH], vllm-dp[:smg], vllm-dp-spec[:DEPTH], vllm-pd[:smg], "
    "vllm-pd-spec[:DEPTH] and http://HOST:PORT, with +KEY=VALUE behind them (docs/bench.md)"
)

DEFAULT_DEPTH = 3
"""The best static depth of most measured cells on CPU cores."""


@dataclass(frozen=True, slots=True)
class System:
    """What serves, and how it is brought up."""

    name: str
    """As it was asked for, e.g. `vllm-spec:3`."""
    title: str
    """In words, for tables and legends."""
    url: str
    """Of the front, without `/v1`."""
    tokenizer: str
    """What the load generator counts prompt tokens with until the server tells them."""
    processes: tuple[Process, ...] = ()
    """In starting order; none for a server that runs already."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A name, taken apart."""

    name: str
    base: str
    parts: tuple[str, ...]
    changes: tuple[str, ...]
    policy: str | None

    @property
    def modifiers(self) -> str:
        return "".join(f", {change}" for change in [*self.changes, *([f"policy={self.policy}"] if self.policy else [])])


def resolve(names: Sequence[str], place: Place) -> list[System]:
    """The systems of these names, each with ports of its own.

    Raises `ConfigError` with the names that there are, and `SetupError` when a router's program is not installed or
    lanes need more cores than there are.
    """
    return [_resolve(name, place) for name in names]


def _resolve(name: str, place: Place) -> System:
    if name.startswith(("http://", "https://")):
        url = name.rstrip("/").removesuffix("/v1")
        return System(name, f"server at {url}", url, place.model)
    wish = parse(name)
    if wish.base == "streamserve":
        return _streamserve(wish, place)
    options = _Options.of(wish)
    if wish.base in ("vllm", "vllm-spec"):
        return _alone(wish, options, place)
    if wish.base in ("vllm-dp", "vllm-dp-spec"):
        return _parallel(wish, options, place)
    return _split(wish, options, place)


BASES = ("streamserve", "vllm", "vllm-spec", "vllm-dp", "vllm-dp-spec", "vllm-pd", "vllm-pd-spec")


def parse(name: str) -> Wish:
    """A name's base, what stands behind its colons, and its changes. Raises `ConfigError`."""
    head, *changes = name.split("+")
    base, *parts = head.split(":")
    if base not in BASES or not all(parts) or not all(changes):
        raise ConfigError(f"there is no system {name!r}; {USAGE}")
    policies = [change.removeprefix("policy=") for change in changes if change.startswith("policy=")]
    others = tuple(change for change in changes if not change.startswith("policy="))
    if len(policies) > 1:
        raise ConfigError(f"{name}: write +policy= once")
    return Wish(name, base, tuple(parts), others, policies[0] if policies else None)


def _streamserve(wish: Wish, place: Place) -> System:
    if len(wish.parts) > 1:
        raise ConfigError(f"{wish.name}: write one configuration behind the colon, changes as +KEY=VALUE")
    config = wish.parts[0] if wish.parts else None
    if config is not None:
        # A wrong name or setting is told now instead of at the start of this system, perhaps an hour later.
        loaded = configuration.load(config, wish.changes)
        if not place.gpus and loaded.device == "cpu":
            plan(loaded, place.cores)
    process = commands.streamserve(place, config, wish.changes, wish.policy)
    return System(wish.name, f"StreamServe{f' {config}' if config else ''}{wish.modifiers}", *_front(place, process))


def idle_cores(name: str, place: Place) -> int:
    """Cores of the place that a system leaves to the others; 0 where that is not known, as behind a URL."""
    if place.gpus or not name.startswith("streamserve:"):
        return 0
    wish = parse(name)
    loaded = configuration.load(wish.parts[0], wish.changes)
    if loaded.device != "cpu":
        return 0
    return len(place.cores) - len({core for lane in plan(loaded, place.cores) for core in lane.cores})


@dataclass(frozen=True, slots=True)
class _Options:
    """What a baseline's name says beside its kind."""

    depth: int
    router: str
    stock: bool
    flags: tuple[str, ...]
    policy: str

    @classmethod
    def of(cls, wish: Wish) -> "_Options":
        depths = [int(part) for part in wish.parts if part.isdigit()]
        routers = [part for part in wish.parts if part in commands.ROUTERS]
        drafts = wish.base.endswith("-spec")
        known = len(depths) + len(routers) + wish.parts.count("stock")
        alone = wish.base in ("vllm", "vllm-spec")
        if known < len(wish.parts) or len(depths) > drafts or len(routers) > (not alone):
            raise ConfigError(f"{wish.name}: no system has that behind its colons; {USAGE}")
        if alone and wish.policy:
            raise ConfigError(f"{wish.name}: there is no router before one engine that +policy= could speak of")
        if drafts and depths == [0]:
            raise ConfigError(f"{wish.name}: depth 0 is the system without -spec")
        return cls(
            depth=(depths[0] if depths else DEFAULT_DEPTH) if drafts else 0,
            router=routers[0] if routers else next(iter(commands.ROUTERS)),
            stock="stock" in wish.parts,
            flags=tuple(word for change in wish.changes for word in _flag(change)),
            policy=wish.policy or commands.ROUTER_POLICY,
        )

    def engine(
        self,
        name: str,
        cores: Sequence[int],
        gpus: Sequence[int],
        transfers: Literal["kv_producer", "kv_consumer"] | None = None,
        memory_fraction: float = 0.9,
    ) -> Engine:
        return Engine(name, tuple(cores), tuple(gpus), self.depth, transfers, self.stock, memory_fraction, self.flags)

    def title(self, what: str, wish: Wish) -> str:
        depth = f", n-gram depth {self.depth}" if self.depth else ""
        return f"{what}{depth}{', stock executor' if self.stock else ''}{wish.modifiers}"


def _flag(change: str) -> list[str]:
    key, separator, value = change.partition("=")
    flag = f"--{key.removeprefix('--').replace('_', '-')}"
    return [flag, value] if separator else [flag]


Share = tuple[tuple[int, ...], tuple[int, ...]]
"""The cores and the GPUs of one engine."""


def _alone(wish: Wish, options: _Options, place: Place) -> System:
    one = commands.engine(place, options.engine("vllm", place.cores, place.gpus))
    return System(wish.name, options.title("vLLM", wish), *_front(place, one))


def _parallel(wish: Wish, options: _Options, place: Place) -> System:
    shares: list[Share] = [((), (gpu,)) for gpu in place.gpus] or [((core,), ()) for core in place.cores]
    engines = [
        commands.engine(place, options.engine(f"engine-{number}", cores, gpus))
        for number, (cores, gpus) in enumerate(shares)
    ]
    front = commands.router(place, options.router, engines, options.policy)
    what = f"vLLM x {len(engines)} behind {options.router}"
    return System(wish.name, options.title(what, wish), *_front(place, *engines, front))


def _split(wish: Wish, options: _Options, place: Place) -> System:
    halves, share = _halves(wish, place)
    (prompt_cores, prompt_gpus), (output_cores, output_gpus) = halves
    prefill = commands.engine(
        place,
        options.engine("prefill", prompt_cores, prompt_gpus, transfers="kv_producer", memory_fraction=share),
    )
    decode = commands.engine(
        place,
        options.engine("decode", output_cores, output_gpus, transfers="kv_consumer", memory_fraction=share),
    )
    front = commands.split_router(place, options.router, prefill, decode, options.policy)
    what = f"vLLM 1P1D behind {options.router}"
    return System(wish.name, options.title(what, wish), *_front(place, prefill, decode, front))


def _halves(wish: Wish, place: Place) -> tuple[tuple[Share, Share], float]:
    """Cores and GPUs of the two engines, and the share of a GPU's memory that each takes."""
    if len(place.gpus) == 1:
        return (((), place.gpus), ((), place.gpus)), 0.45
    if place.gpus:
        middle = len(place.gpus) // 2
        return (((), place.gpus[:middle]), ((), place.gpus[middle:])), 0.9
    if len(place.cores) < 2:
        raise ConfigError(f"{wish.name}: two engines need two cores, here is {len(place.cores)}; leave it out")
    middle = len(place.cores) // 2
    return ((place.cores[:middle], ()), (place.cores[middle:], ())), 0.9


def _front(place: Place, *processes: Process) -> tuple[str, str, tuple[Process, ...]]:
    """URL, tokenizer and processes of a system whose last process is its front."""
    return f"http://127.0.0.1:{processes[-1].port}", place.model, processes
