"""What lanes take of a CPU machine's memory."""

import json
from pathlib import Path

import pytest

from streamserve.lanes.vllm.memory import GIB, weights_gib


@pytest.mark.parametrize(
    ("described", "dtype", "times"),
    [
        ({"torch_dtype": "bfloat16"}, "bfloat16", 1.0),
        ({"torch_dtype": "bfloat16"}, "float32", 2.0),
        ({"dtype": "float32"}, "bfloat16", 0.5),
        ({"dtype": "float32"}, "auto", 1.0),
        ({}, "float32", 1.0),
    ],
)
def test_weights_take_what_they_are_loaded_as(
    tmp_path: Path, described: dict[str, str], dtype: str, times: float
) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(4096))
    (tmp_path / "config.json").write_text(json.dumps(described))
    assert weights_gib(str(tmp_path), dtype) == pytest.approx(times * 4096 / GIB)


def test_a_model_that_is_still_to_be_fetched_takes_nothing_yet() -> None:
    assert weights_gib("someone/a-model", "float32") == 0
