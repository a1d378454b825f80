"""Names become processes: which cores or GPUs, which settings, which router."""

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from streamserve.bench.contest import commands, systems
from streamserve.bench.contest import place as place_module
from streamserve.bench.contest.place import Place
from streamserve.bench.contest.process import Process
from streamserve.bench.contest.systems import System
from streamserve.errors import ConfigError, SetupError
from streamserve.lanes.vllm import environment
from streamserve.lanes.vllm import model as models
from streamserve.lanes.vllm.plan import available_cores
from streamserve.machine import inspect_machine
from tests.test_doctor import LAPTOP

SHARED = {"NUMBA_THREADING_LAYER": "workqueue", "LD_PRELOAD": "libiomp5.so", "VLLM_USE_V2_MODEL_RUNNER": "0"}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment whose programs are in a folder of the test, and what a lane is given on any machine."""
    for program in commands.ROUTERS:
        (tmp_path / program).touch()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(environment, "shared", lambda device: dict(SHARED))
    return tmp_path


def place(cores: int = 2, gpus: int = 0, heads: int | None = 9) -> Place:
    ports = itertools.count(9000)
    return Place("model", tuple(range(cores)), Path(), tuple(range(gpus)), heads, lambda: next(ports))


def resolve(name: str, at: Place | None = None) -> System:
    [system] = systems.resolve([name], at or place())
    return system


def value(process: Process, flag: str) -> Any:
    text = process.argv[process.argv.index(flag) + 1]
    return json.loads(text) if text.startswith("{") else text


def engine_variables(process: Process) -> dict[str, str]:
    """What the engine's process alone is given."""
    given = process.argv[2 : process.argv.index("--")]
    return dict(variable.split("=", 1) for variable in given)


def test_one_vllm_has_all_cores_in_one_computing_process() -> None:
    system = resolve("vllm")
    [process] = system.processes
    assert (system.title, system.url, process.cores) == ("vLLM", "http://127.0.0.1:9000", (0, 1))
    assert (process.port, process.ready) == (9000, "http://127.0.0.1:9000/health")
    assert value(process, "--model") == "model"
    assert value(process, "--host") == "127.0.0.1"
    assert value(process, "--distributed-executor-backend") == "uni"
    assert process.env["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert process.env["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert process.env["LD_PRELOAD"] == "libiomp5.so"
    assert "VLLM_USE_V2_MODEL_RUNNER" not in process.env
    assert engine_variables(process) == {
        "OMP_NUM_THREADS": "2",
        "KMP_AFFINITY": "granularity=fine,explicit,proclist=[0,1]",
        "KMP_BLOCKTIME": "5",
    }
    # Its front is not bound.
    assert not engine_variables(process).keys() & process.env.keys()
    assert "--speculative-config" not in process.argv


def test_stock_is_as_vllm_comes() -> None:
    [process] = resolve("vllm:stock").processes
    assert process.env["VLLM_CPU_OMP_THREADS_BIND"] == "0,1"
    assert "--distributed-executor-backend" not in process.argv
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in process.env
    assert engine_variables(process) == {}


@pytest.mark.parametrize(("name", "depth"), [("vllm-spec", 3), ("vllm-spec:5", 5), ("vllm-dp-spec:1:smg", 1)])
def test_drafts_are_of_a_static_depth_and_leave_the_threads_alone(name: str, depth: int) -> None:
    system = resolve(name)
    assert value(system.processes[0], "--speculative-config")["num_speculative_tokens"] == depth
    assert system.processes[0].env["NUMBA_THREADING_LAYER"] == "workqueue"
    assert f"n-gram depth {depth}" in system.title


def test_data_parallel_is_an_engine_per_core_behind_a_router() -> None:
    system = resolve("vllm-dp", place(cores=3))
    *engines, router = system.processes
    assert [each.stage for each in system.processes] == [0, 0, 0, 1]
    assert [engine_variables(each)["KMP_AFFINITY"][-4:] for each in engines] == ["=[0]", "=[1]", "=[2]"]
    assert {each.env["VLLM_CPU_KVCACHE_SPACE"] for each in engines} == {"1"}
    assert all("--kv-transfer-config" not in each.argv for each in engines)
    urls = [f"http://127.0.0.1:{each.port}" for each in engines]
    at = router.argv.index("--worker-urls")
    assert list(router.argv[at + 1 : at + 4]) == urls
    assert value(router, "--policy") == commands.ROUTER_POLICY
    assert system.url == f"http://127.0.0.1:{router.port}"
    assert len({process.port for process in system.processes} | {int(value(router, "--prometheus-port"))}) == 5


def test_a_router_and_its_policy_can_be_chosen() -> None:
    system = resolve("vllm-dp:smg+policy=cache_aware+max-num-batched-tokens=512+no-enable-prefix-caching")
    *engines, router = system.processes
    assert router.argv[1:4] == ("launch", "--backend", "vllm")
    assert value(router, "--policy") == "cache_aware"
    for each in engines:
        assert each.argv[-3:] == ("--max-num-batched-tokens", "512", "--no-enable-prefix-caching")
    assert system.title == (
        "vLLM x 2 behind smg, max-num-batched-tokens=512, no-enable-prefix-caching, policy=cache_aware"
    )


@pytest.mark.parametrize(
    ("name", "mode"), [("vllm-pd", "--vllm-pd-disaggregation"), ("vllm-pd:smg", "--pd-disaggregation")]
)
def test_prefill_and_decode_have_half_of_the_cores_each(name: str, mode: str) -> None:
    prefill, decode, router = resolve(name, place(cores=4)).processes
    assert engine_variables(prefill)["KMP_AFFINITY"].endswith("[0,1]")
    assert engine_variables(decode)["KMP_AFFINITY"].endswith("[2,3]")
    assert prefill.env["VLLM_NIXL_SIDE_CHANNEL_PORT"] != decode.env["VLLM_NIXL_SIDE_CHANNEL_PORT"]
    transfer = value(decode, "--kv-transfer-config")
    assert (transfer["kv_connector"], transfer["kv_buffer_device"]) == ("NixlConnector", "cpu")
    assert transfer["kv_role"] == "kv_consumer"
    assert value(prefill, "--kv-transfer-config")["kv_role"] == "kv_producer"
    assert mode in router.argv
    assert value(router, "--prefill") == f"http://127.0.0.1:{prefill.port}"
    assert value(router, "--decode") == f"http://127.0.0.1:{decode.port}"


def test_two_engines_need_two_cores() -> None:
    with pytest.raises(ConfigError, match="vllm-pd: two engines need two cores"):
        resolve("vllm-pd", place(cores=1))


def test_streamserve_takes_a_configuration_and_several_changes() -> None:
    system = resolve("streamserve:cpu-pair+router=round_robin+speculation.method=none+policy=auto,shadow")
    [process] = system.processes
    assert process.argv[1:5] == ("-m", "streamserve", "serve", "model")
    assert value(process, "--config") == "cpu-pair"
    assert value(process, "--policy") == "auto,shadow"
    sets = [process.argv[at + 1] for at, word in enumerate(process.argv) if word == "--set"]
    assert sets == ["router=round_robin", "speculation.method=none"]
    assert system.title == "StreamServe cpu-pair, router=round_robin, speculation.method=none, policy=auto,shadow"
    assert process.cores == (0, 1)


def test_streamserve_is_told_the_model_s_name_and_vllm_where_it_lies() -> None:
    """Choices of `bench --pick` and trained policies are looked up by the name."""
    at = replace(place(), model="/cache/models/small", named="embedded")
    (own,) = resolve("streamserve", at).processes
    assert own.argv[1:6] == ("-m", "streamserve", "serve", "embedded", "--host")
    system = resolve("vllm", at)
    assert value(system.processes[0], "--model") == system.tokenizer == "/cache/models/small"


def test_streamserve_alone_chooses_for_itself() -> None:
    system = resolve("streamserve")
    assert system.title == "StreamServe"
    assert not {"--config", "--policy", "--set"} & set(system.processes[0].argv)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1"])
def test_a_url_starts_nothing(url: str) -> None:
    system = resolve(url)
    assert (system.name, system.url, system.processes) == (url, "http://127.0.0.1:8000", ())


@pytest.mark.parametrize(
    ("gpus", "heads", "ranks"), [(4, 32, 4), (4, 14, 2), (3, 32, 1), (6, 9, 3), (4, None, 4), (1, 9, 1)]
)
def test_tensor_parallel_divides_heads_and_gpus_and_leaves_no_gpu_out(gpus: int, heads: int | None, ranks: int) -> None:
    [process] = resolve("vllm", place(gpus=gpus, heads=heads)).processes
    replicas = int(value(process, "--data-parallel-size")) if "--data-parallel-size" in process.argv else 1
    assert (int(value(process, "--tensor-parallel-size")), replicas) == (ranks, gpus // ranks)
    assert process.env["CUDA_VISIBLE_DEVICES"] == ",".join(map(str, range(gpus)))
    assert "--enforce-eager" not in process.argv
    assert process.cores == ()
    assert engine_variables(process) == {}


def test_gpus_are_shared_out_as_cores_are() -> None:
    assert [each.env.get("CUDA_VISIBLE_DEVICES") for each in resolve("vllm-dp", place(gpus=2)).processes] == [
        "0",
        "1",
        None,
    ]
    prefill, decode, _ = resolve("vllm-pd", place(gpus=4)).processes
    assert (prefill.env["CUDA_VISIBLE_DEVICES"], decode.env["CUDA_VISIBLE_DEVICES"]) == ("0,1", "2,3")
    assert value(prefill, "--kv-transfer-config")["kv_buffer_device"] == "cuda"
    prefill, decode, _ = resolve("vllm-pd", place(gpus=1)).processes
    assert value(prefill, "--gpu-memory-utilization") == value(decode, "--gpu-memory-utilization") == "0.45"
    [process] = resolve("streamserve", place(gpus=2)).processes
    assert process.env["CUDA_VISIBLE_DEVICES"] == "0,1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sglang", r"there is no system 'sglang'; there are streamserve\[:CONFIG\], vllm,"),
        ("vllm+", "there is no system"),
        ("vllm:3", "no system has that behind its colons"),
        ("vllm:smg", "no system has that behind its colons"),
        ("vllm-dp:nginx", "no system has that behind its colons"),
        ("vllm-spec:0", "depth 0 is the system without -spec"),
        ("vllm+policy=random", "no router before one engine"),
        ("vllm-dp+policy=random+policy=cache_aware", r"write \+policy= once"),
        ("streamserve:unified:cpu-pair", "one configuration behind the colon"),
        ("streamserve:unifed", "no configuration 'unifed'"),
        ("streamserve:unified+engine.max_runing=3", "did you mean 'max_running'"),
    ],
)
def test_a_name_that_means_nothing_is_told_before_anything_starts(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(name)


def test_an_embedded_model_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "embedded_model", lambda progress: tmp_path)
    here = place_module.here("embedded", tmp_path / "out", gpus=())
    assert (here.model, here.named) == (str(tmp_path), "embedded")


def test_a_missing_router_says_how_to_get_it(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "vllm-router").unlink()
    monkeypatch.setenv("PATH", str(machine))
    with pytest.raises(SetupError, match="pip install --no-deps vllm-router==0.1.17"):
        resolve("vllm-dp")


def test_a_place_is_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"num_attention_heads": 14}')
    available = available_cores()
    here = place_module.here(str(model), tmp_path / "out", cores=1, gpus=())
    assert (here.model, here.heads, here.cores, here.device) == (str(model), 14, available[:1], "cpu")
    assert here.named == str(model)
    assert here.bounds == here.cores and (tmp_path / "out").is_dir()
    assert place_module.here(str(model), tmp_path, gpus=()).cores == available[: inspect_machine().cores]
    with_gpus = place_module.here(str(model), tmp_path, gpus=(0, 1))
    assert (with_gpus.device, with_gpus.bounds) == ("gpu", ())
    monkeypatch.setattr(
        place_module, "inspect_machine", lambda: replace(LAPTOP, core_ids=tuple(range(8)), cpu_limit=2.5)
    )
    assert place_module.here(str(model), tmp_path, gpus=()).cores == (0, 1)
    assert place_module.here(str(model), tmp_path, cores=4, gpus=()).cores == (0, 1, 2, 3)
    monkeypatch.undo()
    for cores in ([max(available) + 1], len(available) + 1, []):
        with pytest.raises(SetupError, match="choose among those"):
            place_module.here(str(model), tmp_path, cores=cores, gpus=())


@pytest.mark.parametrize(
    ("name", "cores", "idle"),
    [
        ("streamserve:cpu-pair", 2, 0),
        ("streamserve:cpu-pair", 8, 6),
        ("streamserve:cpu-pair+lanes.0.cores=4+lanes.1.cores=4", 8, 0),
        ("streamserve:unified", 8, 0),
        ("streamserve", 8, 0),
        ("vllm", 8, 0),
        ("http://127.0.0.1:1", 8, 0),
    ],
)
def test_cores_that_streamserve_leaves_to_its_rivals_are_counted(name: str, cores: int, idle: int) -> None:
    assert systems.idle_cores(name, place(cores)) == idle


def test_lanes_that_the_cores_do_not_suffice_for_are_told_before_anything_starts() -> None:
    with pytest.raises(SetupError, match="needs 4 cores and this machine has 2"):
        resolve("streamserve:cpu-two-pairs")
