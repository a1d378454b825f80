"""What an import loads, seen in a fresh process: vLLM only where it is needed, what training needs never."""

import subprocess
import sys

import pytest

HEAVY = ["vllm", "torch", "transformers", "nixl", "gymnasium", "stable_baselines3", "sb3_contrib"]


@pytest.mark.parametrize(
    "module",
    [
        "streamserve",
        "streamserve.cli",
        "streamserve.build",
        "streamserve.scheduler.scheduler",
        "streamserve.api.server",
        "streamserve.lanes.vllm.launch",
        "streamserve.lanes.vllm.process",
    ],
)
def test_an_import_is_light(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
