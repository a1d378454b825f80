"""The configuration: frozen structs, decoded from YAML with `--set` overrides, and nothing else.

Unknown keys, wrong types and impossible topologies raise `ConfigError` with the place and, where one is near, the right
name.
"""

import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from streamserve import document
from streamserve.errors import ConfigError
from streamserve.signals import DepthControl, DepthMode
from streamserve.types import LaneId

EMBEDDED_MODEL = "embedded"
"""The model name that stands for the small model which setup prepares (SmolLM2-135M-Instruct)."""


class LaneConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One lane: its name and its share of the machine."""

    id: LaneId
    cores: int | list[int] = 1
    """CPU lanes: how many cores (0 = all), or which ones."""
    gpus: list[int] = []
    """GPU lanes: the device indices; several lanes may name the same device."""
    memory_fraction: float = 0.9
    """GPU lanes: share of the device's memory that this lane may take."""
    tensor_parallel_size: int = 1


class EngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every lane's vLLM engine is given."""

    dtype: str = "auto"
    """Of weights and computation; auto = on a GPU the model's own, on a CPU bfloat16 or float32, as is faster."""
    max_model_len: int | None = None
    """Tokens of prompt and output together; None = the model's own limit."""
    kv_cache_gib: float = 1.0
    """CPU lanes: memory for KV blocks, per lane."""
    block_tokens: int | None = None
    """Tokens per KV block; None = vLLM's choice for the device."""
    max_running: int = 64
    """Requests in one batch (vLLM's max_num_seqs)."""
    max_step_tokens: int = 2048
    """Tokens in one step (vLLM's max_num_batched_tokens)."""
    stall_s: float | None = None
    """The longest step that prompts may make while others decode: longer prompts are cut; None = any."""
    hang_s: float | None = 300.0
    """A lane that has work and says nothing for so long is restarted: longer than its longest step. None = never."""
    extra: dict[str, Any] = {}
    """Passed to vLLM's engine arguments as they are; wins over everything above."""


class SpeculationConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """SpecuStream: how draft tokens are made and how many of them are verified."""

    method: Literal["none", "history", "ngram", "draft_model", "eagle", "eagle3"] = "history"
    """Who drafts: `history` and vLLM's `ngram` work for every model, `none` turns speculation off for good."""
    model: str | None = None
    """The draft model's id or folder; for `draft_model` and `eagle`."""
    max_depth: int = 8
    """Draft tokens proposed per request and step: the deepest that any control can go."""
    lookup_tokens: tuple[int, int] = (2, 5)
    """`ngram`: the shortest and the longest piece of text that is looked up in what came before."""
    history_lookup_tokens: int = 6
    """`history`: the longest piece that is looked up; shorter ones always are."""
    history_tokens: int = 32768
    """`history`: output tokens that a lane remembers across requests; 0 = every request drafts from itself alone."""
    mode: DepthMode = DepthMode.SPECUSTREAM
    """The control that a lane starts with and goes back to."""
    depth: int = 0
    target: float = 0.5
    price: float = 1.0
    extra: dict[str, Any] = {}
    """Passed to vLLM's `speculative_config` as they are."""

    @property
    def default(self) -> DepthControl:
        """The control that a lane starts with."""
        return DepthControl(self.mode, self.depth, self.target, self.price, self.max_depth)


class FlowGuardConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `flowguard` router: weights of its scorers and what it does with doubtful signals."""

    weights: dict[str, float] = {}
    """Scorer -> weight, over the defaults; 0 turns a scorer off."""
    stale_s: float = 2.0
    """A busy lane whose engine has not reported for this long is judged by our own counts alone."""
    probe_share: float = 0.02
    """Share of the requests that a lane under suspicion still gets."""


class PolicyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The trained policy beside FlowGuard: which one, what it may do, and when it is not followed."""

    source: str = "auto"
    """`heuristic` = none, `auto` = a shipped one that is proven here, else a shipped one's name or a folder."""
    mode: str = "learned"
    """`learned`, `shadow`, `canary:SHARE`, or `heuristic`."""
    rho: float = 1.5
    """A choice of at most this times the predicted cost of FlowGuard's own is followed."""
    budget_us: float | None = 5000.0
    """Time of one answer; a slower one is not followed, and two in a row begin a pause. null = any."""
    cooldown: int = 16
    """Decisions of such a pause."""
    outside: float = 0.05
    """Share of an observation's features that may lie outside of what training saw."""
    compare: int = 400
    """A canary's results that are compared with those of the heuristic in the same time."""
    control_s: float = 1.0
    """Time between two looks of a policy that controls the lanes' depth."""
    remote: bool = False
    """Whether an agent of another process may decide, at `/streamserve/agent` with an admin key."""
    remote_budget_s: float = 0.25
    """The longest that such an agent may have a request wait for its decisions."""


class SloConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Latencies assumed of requests that name none in their headers; null = none."""

    ttft_s: float | None = None
    tpot_s: float | None = None


class SchedulerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Admission, retries, and how lanes come back."""

    max_queued: int = 1024
    """Requests that may wait for a place before new ones are refused with 429."""
    max_dispatched: int = 512
    """Requests on the lanes at once; the rest wait in StreamServe's own queue."""
    order: Literal["fcfs", "shortest_work", "slack"] = "fcfs"
    """Who leaves our queue first, among equal priorities; a request with an SLO that waits there goes by its slack."""
    patience: float = 4.0
    """`shortest_work`: a request lets others pass that come within its predicted work times this."""
    late_binding: Literal["auto", "always"] = "auto"
    """Whether requests wait in our queue until a lane has room: always, or while they are meant to overtake, that is
    with another order than `fcfs`, and for a minute after a request with a priority."""
    backlog_s: float | None = 1.0
    """Room: a lane is given another prompt while what it has yet to prefill takes less than this; null = any number."""
    max_attempts: int = 3
    """Times a request may be started before its error is reported."""
    resume: bool = True
    """Whether a request whose lane dies after its first token goes on on another lane, where its sampling allows it."""
    lane_wait_s: float = 30.0
    """How long a request waits for a lane to come back when none is ready."""
    restart_backoff_s: tuple[float, ...] = (0.5, 2.0, 8.0, 30.0)
    """Pause before each successive restart of a lane; the last one repeats."""


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The HTTP endpoint."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: list[str] = []
    admin_keys: list[str] = []
    """Keys for the routes that change a lane; empty = any of `api_keys`."""
    served_model_name: str | None = None
    """The name clients use; None = the model's own."""
    max_body_bytes: int = 8 * 1024 * 1024
    tool_call_parser: str | None = "hermes"
    """vLLM's parser for `tool_choice="auto"`; None turns automatic tool choice off."""
    extra: dict[str, Any] = {}
    """Further options of vLLM's server by their flag name, e.g. {chat-template: file.jinja}."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything `streamserve serve` needs to know."""

    lanes: list[LaneConfig]
    device: Literal["cpu", "gpu"] = "cpu"
    model: str = EMBEDDED_MODEL
    pairs: Literal["all", "own"] | list[tuple[LaneId, LaneId]] = "all"
    """The stream pairs (prefill lane, decode lane) that a router may choose: a list, every two lanes and every lane
    with itself (`all`), or only every lane with itself (`own`)."""
    share_cores: bool = False
    """Allow lanes to share cores when the machine has too few (slow; for trying a layout out)."""
    router: str = "flowguard"
    """One of the shipped routers by its name, or a class of your own by its dotted path."""
    flowguard: FlowGuardConfig = msgspec.field(default_factory=FlowGuardConfig)
    policy: PolicyConfig = msgspec.field(default_factory=PolicyConfig)
    speculation: SpeculationConfig = msgspec.field(default_factory=SpeculationConfig)
    slo: SloConfig = msgspec.field(default_factory=SloConfig)
    engine: EngineConfig = msgspec.field(default_factory=EngineConfig)
    scheduler: SchedulerConfig = msgspec.field(default_factory=SchedulerConfig)
    server: ServerConfig = msgspec.field(default_factory=ServerConfig)

    def stream_pairs(self) -> tuple[tuple[LaneId, LaneId], ...]:
        if self.pairs == "all":
            return tuple((prefill.id, decode.id) for prefill in self.lanes for decode in self.lanes)
        if self.pairs == "own":
            return tuple((lane.id, lane.id) for lane in self.lanes)
        return tuple(self.pairs)


def load(source: str, overrides: Sequence[str] = (), folder: Path | None = None) -> Config:
    """The configuration in a file, or of a name in `folder`, with overrides of the form ``a.b.0.c=value`` applied.

    Raises `ConfigError`.
    """
    tree = _read(source, folder or config_folder())
    for override in overrides:
        document.override(tree, override)
    config = document.decode(tree, Config, source)
    _check(config)
    return config


def config_folder() -> Path:
    """The folder of the configurations that ship with StreamServe."""
    return Path(__file__).resolve().parent.parent / "configs"


def names(folder: Path | None = None) -> list[str]:
    """The names that `load` knows, sorted."""
    return sorted(path.stem for path in (folder or config_folder()).glob("*.yaml"))


def _read(source: str, folder: Path) -> dict[str, Any]:
    path = Path(source) if source.endswith((".yaml", ".yml")) else folder / f"{source}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source} is not UTF-8 text ({error}): save it as UTF-8") from error
    except OSError as error:
        known = ", ".join(names(folder))
        raise ConfigError(f"no configuration {source!r}: give a YAML file or one of {known}") from error
    return document.parse(text, source)


def _check(config: Config) -> None:
    ids = [lane.id for lane in config.lanes]
    if not ids:
        raise ConfigError("lanes: at least one lane is needed")
    if len(set(ids)) < len(ids):
        raise ConfigError(f"lanes: every lane needs its own id, got {', '.join(ids)}")
    if not config.pairs:
        raise ConfigError("pairs: name at least one pair, or write all, or own")
    for pair in config.stream_pairs():
        for lane in pair:
            if lane not in ids:
                raise ConfigError(f"pairs: no lane {lane!r}; lanes are {', '.join(ids)}")
    for lane_config in config.lanes:
        _check_lane(lane_config, config.device)
    _check_ranges(config)
    _check_keys(config.server)
    _check_speculation(config.speculation)
    if not config.scheduler.restart_backoff_s:
        raise ConfigError("scheduler.restart_backoff_s needs at least one pause")


ABOVE_ZERO = math.ulp(0.0)
RANGES: Mapping[str, tuple[float, float]] = {
    "engine.kv_cache_gib": (ABOVE_ZERO, math.inf),
    "engine.max_running": (1, math.inf),
    "engine.max_step_tokens": (1, math.inf),
    "engine.stall_s": (ABOVE_ZERO, math.inf),
    "engine.hang_s": (ABOVE_ZERO, math.inf),
    "engine.max_model_len": (1, math.inf),
    "engine.block_tokens": (1, math.inf),
    "flowguard.stale_s": (ABOVE_ZERO, math.inf),
    "flowguard.probe_share": (0, 1),
    "policy.rho": (1, math.inf),
    "policy.budget_us": (0, math.inf),
    "policy.cooldown": (0, math.inf),
    "policy.outside": (0, 1),
    "policy.compare": (1, 10**6),
    "policy.control_s": (0.01, 3600),
    "policy.remote_budget_s": (0.001, 60),
    "scheduler.max_queued": (0, math.inf),
    "scheduler.max_dispatched": (1, math.inf),
    "scheduler.patience": (0, math.inf),
    "scheduler.backlog_s": (0, math.inf),
    "scheduler.max_attempts": (1, math.inf),
    "scheduler.lane_wait_s": (0, math.inf),
    "server.max_body_bytes": (1, math.inf),
    "server.port": (0, 65535),
    "slo.ttft_s": (ABOVE_ZERO, math.inf),
    "slo.tpot_s": (ABOVE_ZERO, math.inf),
    "speculation.max_depth": (1, 64),
    "speculation.history_lookup_tokens": (1, 32),
    "speculation.history_tokens": (0, 10**7),
    "speculation.depth": (0, 64),
    "speculation.target": (0, 1),
    "speculation.price": (0, sys.float_info.max),
}
"""Key: its least and greatest value. No key takes NaN."""


def _check_ranges(config: Config) -> None:
    for key, (low, high) in RANGES.items():
        section, name = key.split(".")
        value = getattr(getattr(config, section), name)
        if value is None or low <= value <= high:
            continue
        least = "above 0" if low == ABOVE_ZERO else f"at least {low:g}"
        raise ConfigError(f"{key} must be {least}{f' and at most {high:g}' if high < 1e9 else ''}, got {value}")
    if not all(0 <= pause_s < math.inf for pause_s in config.scheduler.restart_backoff_s):
        raise ConfigError("scheduler.restart_backoff_s: every pause must be at least 0")


def _check_keys(server: ServerConfig) -> None:
    # An empty key is what an unset variable leaves behind: vLLM would skip it and then ask nobody for a key.
    for name, keys in (("api_keys", server.api_keys), ("admin_keys", server.admin_keys)):
        if not all(key.strip() for key in keys):
            raise ConfigError(f"server.{name}: a key is empty, so anyone would be let in: give a key, or leave it out")


def _check_speculation(speculation: SpeculationConfig) -> None:
    shortest, longest = speculation.lookup_tokens
    if not 1 <= shortest <= longest:
        raise ConfigError(
            f"speculation.lookup_tokens: write [shortest, longest], both above 0; got {[shortest, longest]}"
        )
    if speculation.method not in ("none", "history", "ngram") and speculation.model is None:
        raise ConfigError(f"speculation.method={speculation.method} needs the draft model's name in speculation.model")


def _check_lane(lane: LaneConfig, device: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", lane.id):
        raise ConfigError(f"lanes: id {lane.id!r} may hold letters, digits, '.', '_' and '-' only")
    if isinstance(lane.cores, int) and lane.cores < 0:
        raise ConfigError(f"{lane.id}: cores must be 0 (all) or more, or a list of cores; got {lane.cores}")
    if lane.tensor_parallel_size < 1:
        raise ConfigError(f"{lane.id}: tensor_parallel_size must be at least 1")
    if device == "gpu" and len(lane.gpus) != lane.tensor_parallel_size:
        raise ConfigError(
            f"{lane.id}: name {lane.tensor_parallel_size} GPU(s) in gpus, one per tensor-parallel rank; got {lane.gpus}"
        )
    if device == "gpu" and not 0 < lane.memory_fraction <= 1:
        raise ConfigError(f"{lane.id}: memory_fraction must be above 0 and at most 1, got {lane.memory_fraction}")
