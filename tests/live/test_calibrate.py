"""A tiny calibration of a real lane, and Ctrl-C in the middle of one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from streamserve import config as configuration
from streamserve.bench.calibrate import Options, run
from streamserve.lanes.sim.calibration import load
from tests.live.server import wait_until

pytestmark = [pytest.mark.live, pytest.mark.timeout(400)]


def test_a_calibration_of_a_real_lane(tmp_path: Path) -> None:
    config = configuration.load("unified", ["lanes.0.cores=1", "engine.max_model_len=2048", "engine.kv_cache_gib=0.5"])
    options = Options(config, "unified", 0.2, tmp_path / "out", "tiny", folder=tmp_path)
    calibration = load(str(run(options, Console(quiet=True))))
    decode_s = [seconds for _, seconds in calibration.step.decode_s]
    assert 0.001 < decode_s[0] < 2.0
    assert decode_s[-1] > decode_s[0]
    assert calibration.step.prompt_token_s > 0
    assert calibration.coupling == (1.0,)
    assert sum(each.share for each in calibration.acceptance["synthetic"]) > 0.5
    assert (tmp_path / "out" / "report.md").read_text().count("| step.") >= 6


def test_ctrl_c_leaves_nothing_running(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "streamserve", "calibrate", "--config", "unified", "--set", "lanes.0.cores=1"]
    command += ["--name", "never", "--out", str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as run:
        wait_until(lambda: engines(run.pid), 200)
        family = psutil.Process(run.pid).children(recursive=True)
        os.kill(run.pid, signal.SIGINT)
        assert run.wait(60) != 0
    _, left = psutil.wait_procs(family, timeout=20)
    assert [each for each in left if each.status() != psutil.STATUS_ZOMBIE] == []
    assert list((tmp_path / "out").iterdir()) == [], "made before anything is measured, and left without results"


def engines(pid: int) -> list[psutil.Process]:
    """Engine processes under this one."""
    family = psutil.Process(pid).children(recursive=True)
    return [each for each in family if "EngineCore" in " ".join(each.cmdline())]
