"""The dtype that a lane is given where the configuration leaves it open."""

import pytest

from streamserve.lanes.vllm.dtype import chosen, flags_of


@pytest.mark.parametrize(
    ("wished", "device", "flags", "dtype"),
    [
        ("auto", "cpu", "avx2 avx512f amx_bf16", "bfloat16"),
        ("auto", "cpu", "avx2 avx512f", "bfloat16"),
        ("auto", "cpu", "fp asimd bf16", "bfloat16"),
        ("auto", "cpu", "avx2 fma", "float32"),
        ("auto", "cpu", "fp asimd", "float32"),
        ("bfloat16", "cpu", "avx2 fma", "bfloat16"),
        ("float16", "gpu", "avx2", "float16"),
        ("auto", "gpu", "avx2", "auto"),
    ],
)
def test_a_cpu_lane_computes_in_what_the_processor_is_fast_in(wished: str, device: str, flags: str, dtype: str) -> None:
    assert chosen(wished, device, flags.split()) == dtype


def test_what_is_not_told_is_this_machines() -> None:
    assert chosen("auto", "cpu") in ("bfloat16", "float32")


def test_flags_are_those_of_the_first_processor() -> None:
    x86 = "processor\t: 0\nflags\t\t: fpu avx2\n\nprocessor\t: 1\nflags\t\t: fpu avx512f\n"
    assert flags_of(x86) == {"fpu", "avx2"}
    assert "bf16" in flags_of("Features\t: fp asimd bf16\n")
    assert flags_of("") == frozenset()
