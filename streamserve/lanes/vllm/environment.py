"""The environment variables of a lane's process, and why each is set."""

import os
import secrets
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from streamserve.lanes.vllm.plan import LanePlan

PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST_PORT = 10000


def shared(device: str) -> dict[str, str]:
    """What must be in place before Python starts, in the front and in every lane."""
    variables = {
        # numba's OpenMP layer would set the engine's own thread count as a side effect of n-gram drafting.
        "NUMBA_THREADING_LAYER": "workqueue",
        # The V2 runner drops per-request draft tokens on their way through the scheduler.
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    openmp = Path(sys.prefix) / "lib" / "libiomp5.so"
    if device == "cpu" and openmp.exists():
        preloaded = [p for p in os.environ.get("LD_PRELOAD", "").split(":") if p]
        variables["LD_PRELOAD"] = ":".join(dict.fromkeys([*preloaded, str(openmp)]))
    return variables


def of_lane(plan: LanePlan) -> dict[str, str]:
    """What is particular to one lane; set inside its process before vLLM's engine is built."""
    # The front turns vLLM's logging off for itself; a lane has a log of its own.
    variables = {"VLLM_CONFIGURE_LOGGING": "1"}
    if plan.transfers_kv:
        variables |= {"VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1", "VLLM_NIXL_SIDE_CHANNEL_PORT": str(free_port())}
    if plan.device == "gpu":
        return variables | {"CUDA_VISIBLE_DEVICES": ",".join(map(str, plan.gpus))}
    cores = ",".join(map(str, plan.cores))
    if plan.tensor_parallel_size > 1:
        # vLLM's own multiprocess executor binds one worker to each '|'-separated set of cores.
        share = len(plan.cores) // plan.tensor_parallel_size
        sets = [plan.cores[i * share : (i + 1) * share] for i in range(plan.tensor_parallel_size)]
        return variables | {"VLLM_CPU_OMP_THREADS_BIND": "|".join(",".join(map(str, cpus)) for cpus in sets)}
    return variables | {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(len(plan.cores)),
        "KMP_AFFINITY": f"granularity=fine,explicit,proclist=[{cores}]",
        # How many ms threads wait for the next step before they sleep: enough while busy, little when idle.
        "KMP_BLOCKTIME": "5",
    }


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on.

    Below the range from which the kernel takes ports for outgoing connections: those come and go by the second, and one
    may take a port of that range between this look and its use.
    """
    lowest_outgoing = int(PORT_RANGE.read_text().split()[0]) if PORT_RANGE.exists() else 32768
    ports = lowest_outgoing - LOWEST_PORT if lowest_outgoing >= 2 * LOWEST_PORT else 2**16 - LOWEST_PORT
    while True:
        port = LOWEST_PORT + secrets.randbelow(ports)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextmanager
def exported(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables in this process while a child is started, then put back what was there."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
