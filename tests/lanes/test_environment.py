"""The environment of a lane's process."""

import os
import socket
import sys
from pathlib import Path

import pytest

from streamserve.lanes.vllm import environment
from streamserve.lanes.vllm.plan import LanePlan
from streamserve.types import LaneId

LANE = LaneId("lane-0")


@pytest.fixture
def prefix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment with Intel's OpenMP library, where nothing else is preloaded."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libiomp5.so").touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    return tmp_path


class TestShared:
    def test_cpu_lanes_preload_openmp(self, prefix: Path) -> None:
        assert environment.shared("cpu")["LD_PRELOAD"] == f"{prefix}/lib/libiomp5.so"

    def test_what_is_preloaded_already_stays_and_nothing_comes_twice(
        self, prefix: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        openmp = f"{prefix}/lib/libiomp5.so"
        monkeypatch.setenv("LD_PRELOAD", "/lib/tcmalloc.so")
        assert environment.shared("cpu")["LD_PRELOAD"] == f"/lib/tcmalloc.so:{openmp}"
        monkeypatch.setenv("LD_PRELOAD", f"{openmp}:/lib/tcmalloc.so")
        assert environment.shared("cpu")["LD_PRELOAD"] == f"{openmp}:/lib/tcmalloc.so"

    def test_nothing_is_preloaded_on_a_gpu_or_without_the_library(self, prefix: Path) -> None:
        assert "LD_PRELOAD" not in environment.shared("gpu")
        (prefix / "lib" / "libiomp5.so").unlink()
        assert "LD_PRELOAD" not in environment.shared("cpu")

    @pytest.mark.parametrize("device", ["cpu", "gpu"])
    def test_every_engine_drafts_on_numba_threads_of_its_own_with_the_first_runner(self, device: str) -> None:
        variables = environment.shared(device)
        assert variables["NUMBA_THREADING_LAYER"] == "workqueue"
        assert variables["VLLM_USE_V2_MODEL_RUNNER"] == "0"


class TestOfLane:
    def test_a_cpu_lane_is_bound_to_its_cores_by_openmp_alone(self) -> None:
        variables = environment.of_lane(LanePlan(LANE, 0, "cpu", cores=(2, 5, 7)))
        assert variables["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
        assert variables["OMP_NUM_THREADS"] == "3"
        assert variables["KMP_AFFINITY"] == "granularity=fine,explicit,proclist=[2,5,7]"

    def test_each_rank_of_a_tensor_parallel_lane_has_its_share_of_the_cores(self) -> None:
        variables = environment.of_lane(LanePlan(LANE, 0, "cpu", cores=(0, 1, 2, 3), tensor_parallel_size=2))
        assert variables["VLLM_CPU_OMP_THREADS_BIND"] == "0,1|2,3"
        assert "OMP_NUM_THREADS" not in variables

    def test_a_gpu_lane_sees_its_devices_only(self) -> None:
        variables = environment.of_lane(LanePlan(LANE, 0, "gpu", gpus=(2, 3)))
        assert variables["CUDA_VISIBLE_DEVICES"] == "2,3"
        assert not {"OMP_NUM_THREADS", "KMP_AFFINITY", "VLLM_CPU_OMP_THREADS_BIND"} & variables.keys()

    @pytest.mark.parametrize("device", ["cpu", "gpu"])
    def test_a_lane_that_transfers_kv_has_a_side_channel_on_this_machine(self, device: str) -> None:
        alone, paired = (
            environment.of_lane(LanePlan(LANE, 0, device, (0,), (0,), transfers_kv=moves)) for moves in (False, True)
        )
        assert not any(name.startswith("VLLM_NIXL") for name in alone)
        assert paired["VLLM_NIXL_SIDE_CHANNEL_HOST"] == "127.0.0.1"
        port = int(paired["VLLM_NIXL_SIDE_CHANNEL_PORT"])
        with socket.create_server(("127.0.0.1", port)) as listener:
            assert listener.getsockname()[1] == port


class TestExported:
    def test_what_was_there_comes_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STREAMSERVE_TEST_OLD", "before")
        monkeypatch.delenv("STREAMSERVE_TEST_NEW", raising=False)
        with (
            pytest.raises(KeyboardInterrupt),
            environment.exported({"STREAMSERVE_TEST_OLD": "during", "STREAMSERVE_TEST_NEW": "during"}),
        ):
            assert os.environ["STREAMSERVE_TEST_OLD"] == os.environ["STREAMSERVE_TEST_NEW"] == "during"
            raise KeyboardInterrupt
        assert os.environ["STREAMSERVE_TEST_OLD"] == "before"
        assert "STREAMSERVE_TEST_NEW" not in os.environ
