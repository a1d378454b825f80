"""What `make` runs."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_serve_names_the_model_as_an_argument() -> None:
    command = ["make", "--no-print-directory", "-n", "serve", "MODEL=my model", "CONFIG=unified", "PORT=9000"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    words = shlex.split(told.partition("streamserve serve ")[2].replace("\\\n", ""))
    assert words == ["my model", "--config", "unified", "--set", "server.port=9000"]
