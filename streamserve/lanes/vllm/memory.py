"""How much memory lanes take on a CPU machine, so that a topology that cannot fit is refused before anything loads."""

import json
from pathlib import Path

from streamserve.config import Config
from streamserve.errors import SetupError
from streamserve.lanes.vllm.dtype import bytes_each, chosen

GIB = 1024**3
FRONT_GIB = 0.9


def lane_memory_gib(kv_cache_gib: float, weights_gib: float) -> float:
    """Memory of one CPU lane: its KV blocks, the weights, and 0.93 GiB for vLLM, torch and a step's activations.

    Measured: 2.2 GiB with 1 GiB of KV and 0.27 GiB of weights.
    """
    return kv_cache_gib + weights_gib + 0.93


def weights_gib(model: str, dtype: str) -> float:
    """Size of the weights in a model's folder, once loaded in this dtype; 0 for a model that is still to be fetched."""
    files_gib = sum(file.stat().st_size for file in Path(model).glob("*.safetensors")) / GIB
    config = Path(model) / "config.json"
    described = json.loads(config.read_text()) if config.is_file() else {}
    stored, loaded = bytes_each(described.get("dtype", described.get("torch_dtype", ""))), bytes_each(dtype)
    return files_gib * loaded / stored if stored and loaded else files_gib


def check_fits(config: Config, model: str, available_gib: float) -> None:
    """Raises `SetupError` when the lanes of this configuration need more than is available."""
    if config.device != "cpu":
        return
    lane_gib = lane_memory_gib(
        config.engine.kv_cache_gib, weights_gib(model, chosen(config.engine.dtype, config.device))
    )
    need_gib = FRONT_GIB + len(config.lanes) * lane_gib
    if need_gib > available_gib:
        raise SetupError(
            f"these {len(config.lanes)} lane(s) need about {need_gib:.1f} GiB of memory and {available_gib:.1f} GiB is "
            "available: use fewer lanes (--config unified) or less KV cache (--set engine.kv_cache_gib=0.5)"
        )
