"""What an import loads, seen in a fresh process: vLLM only where it is needed, what training needs never."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

HEAVY = ["vllm", "torch", "transformers", "nixl", "gymnasium", "stable_baselines3", "sb3_contrib", "agents", "envs"]
HEAVY += ["tensorboard", "tensorflow"]


@pytest.mark.parametrize(
    "module",
    [
        "streamserve",
        "streamserve.cli",
        "streamserve.build",
        "streamserve.scheduler.scheduler",
        "streamserve.api.server",
        "streamserve.policy.switch",
        "streamserve.metrics.tensorboard",
        "streamserve.lanes.vllm.launch",
        "streamserve.lanes.vllm.process",
    ],
)
def test_an_import_is_light(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


SERVES_WITH_A_POLICY_AND_A_LOG = """
import asyncio, sys
from pathlib import Path
from streamserve.metrics.policy import PolicyTally
from streamserve.metrics.tensorboard import TensorBoardLog
from streamserve.policy import store
from streamserve.policy.switch import PolicySwitch
from tests.policy.policies import make_card, make_config, make_weights, moments

folder = Path(sys.argv[1])
store.save(folder / "one", make_card(), make_weights())
switch = PolicySwitch(make_config(source="one", budget_us=None), folder)
assert [switch.route(*moment).router for moment in moments(5)] == ["learned"] * 5
asyncio.run(TensorBoardLog(folder / "log").aclose())
print([name for name in HEAVY if name in sys.modules])
"""


def test_serving_with_a_policy_and_a_tensorboard_log_loads_no_training_library(tmp_path: Path) -> None:
    heavy = [name for name in HEAVY if name != "tensorboard"]
    code = f"HEAVY = {heavy}\n{SERVES_WITH_A_POLICY_AND_A_LOG}"
    ran = subprocess.run([sys.executable, "-c", code, tmp_path], check=False, capture_output=True, text=True, cwd=ROOT)
    assert (ran.stdout, ran.returncode) == ("[]\n", 0), ran.stderr
