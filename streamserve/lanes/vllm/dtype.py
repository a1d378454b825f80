"""Which numbers a lane computes in, where the configuration leaves it open."""

from collections.abc import Collection
from functools import cache
from pathlib import Path

FASTER_IN_BF16 = frozenset(("avx512f", "bf16"))
"""CPUs with one of these have bfloat16 products of matrices that are worth their name, on x86 and on Arm.

Elsewhere they are made number by number: on an AMD EPYC with AVX2 prompts took 5.5 times as long as in float32, and 16
requests made a third of the tokens.
"""


def chosen(wished: str, device: str, flags: Collection[str] | None = None) -> str:
    """vLLM's `dtype` for a configured one: "auto" is the model's own on a GPU, and what the CPU is faster in on a CPU.

    flags: the processor's, None = this machine's.
    """
    if wished != "auto" or device != "cpu":
        return wished
    return "float32" if FASTER_IN_BF16.isdisjoint(cpu_flags() if flags is None else flags) else "bfloat16"


@cache
def cpu_flags() -> frozenset[str]:
    """What this machine's processor says that it can do."""
    cpuinfo = Path("/proc/cpuinfo")
    return flags_of(cpuinfo.read_text()) if cpuinfo.exists() else frozenset()


def flags_of(cpuinfo: str) -> frozenset[str]:
    """The flags of the first processor in the text of /proc/cpuinfo."""
    lines = (line for line in cpuinfo.splitlines() if line.startswith(("flags", "Features")))
    return frozenset(next(lines, "").partition(":")[2].split())


def bytes_each(dtype: str) -> int | None:
    """Bytes of one number, None for a dtype that is not known here."""
    return _BYTES.get(dtype)


_BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2}
