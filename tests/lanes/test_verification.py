"""What comes out of verified drafts has exactly the distribution that is asked for (vLLM's CPU sampler, corrected)."""

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.config import VllmConfig
from vllm.platforms.cpu import CpuPlatform
from vllm.triton_utils import HAS_TRITON
from vllm.utils import cpu_triton_utils
from vllm.v1.sample.logits_processor import LogitsProcessors
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.rejection_sampler import RejectionSampler
from vllm.v1.sample.sampler import Sampler
from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

from streamserve.lanes.vllm.verification import correct_verification, draws_rightly, expand

VOCABULARY = 12
REPEATS = 3000
LOGITS = torch.randn((4, VOCABULARY), generator=torch.Generator().manual_seed(5)) * 1.5
"""Of a request: after its context, after its first draft token, and so on."""
LIKELIEST = LOGITS.argmax(dim=-1).tolist()
UNLIKELIEST = LOGITS.argmin(dim=-1).tolist()

as_vllm_left_it: Callable[..., None] = cpu_triton_utils._expand_kernel_impl


@dataclass(frozen=True)
class Asked:
    """A request: what to verify and how to sample."""

    drafts: Sequence[int]
    temperature: float = 1.0
    top_k: int = VOCABULARY
    top_p: float = 1.0


@pytest.fixture(scope="module", autouse=True)
def cpu_kernels() -> Iterator[None]:
    """vLLM's replacements of Triton kernels, as a worker registers them, ours among them."""
    if HAS_TRITON:
        pytest.skip("vLLM uses Triton's own kernels here")
    CpuPlatform.import_kernels()
    correct_verification()
    with warnings.catch_warnings():
        # It looks at every attribute of every module, deprecated ones too, and fails at one of numba's.
        warnings.simplefilter("ignore")
        numbas = sys.modules.pop("llvmlite.binding.ffi", None)
        CpuPlatform.register_triton_kernel_overrides()
        if numbas:
            sys.modules["llvmlite.binding.ffi"] = numbas
    yield
    cpu_triton_utils._expand_kernel_impl = as_vllm_left_it


@pytest.mark.parametrize(
    "asked",
    [
        Asked([]),
        Asked([], 0.7, 4, 0.8),
        Asked([LIKELIEST[0]], 0.7),
        Asked([3, 5], 1.3),
        Asked(LIKELIEST[:3], 0.7),
        Asked(LIKELIEST[:3], 0.5, top_k=4),
        Asked(LIKELIEST[:3], 1.0, top_p=0.6),
        Asked([LIKELIEST[0], 5, 1], 1.5, top_k=6, top_p=0.8),
        Asked(UNLIKELIEST[:3], 0.8, top_p=0.9),
    ],
    ids=str,
)
@pytest.mark.parametrize("seeded", [False, True])
def test_tokens_come_with_their_own_probabilities(asked: Asked, seeded: bool) -> None:
    torch.manual_seed(1)
    seeds = range(REPEATS) if seeded else None
    assert surprise(sampled([asked] * REPEATS, seeds), asked) < 4


def test_requests_of_one_batch_do_not_mix() -> None:
    """Greedy and sampling, with and without drafts, each with a temperature of its own."""
    torch.manual_seed(2)
    kinds = [
        Asked(LIKELIEST[:2], 0.0),
        Asked(LIKELIEST[:3], 0.3),
        Asked([]),
        Asked([LIKELIEST[0], UNLIKELIEST[1]], 0.0),
        Asked([LIKELIEST[0]], 2.0, top_k=3),
        Asked([], 0.0),
        Asked([3, 5], 0.9, top_p=0.7),
    ]
    outputs = sampled(kinds * (REPEATS // 3))
    for place, kind in enumerate(kinds):
        assert surprise(outputs[place :: len(kinds)], kind) < 4, kind


def test_all_is_kept_where_only_the_likeliest_may_come() -> None:
    assert sampled([Asked(LIKELIEST[:3], top_k=1)] * 50) == [tuple(LIKELIEST)] * 50


def test_nothing_is_kept_that_may_not_come() -> None:
    outputs = sampled([Asked(UNLIKELIEST[:3], top_k=2)] * 50)
    assert {len(output) for output in outputs} == {1}
    assert UNLIKELIEST[0] not in {output[0] for output in outputs}


def test_a_seed_repeats() -> None:
    asked = [Asked(LIKELIEST[:3]), Asked([3])] * 20
    assert sampled(asked, range(40)) == sampled(asked, range(40))
    assert sampled(asked, range(40)) != sampled(asked, range(40, 80))


def test_vllm_still_leaves_the_buffer_unwritten() -> None:
    """When this fails, vLLM has mended it and `verification` can go."""
    output = torch.full((5,), 7.5)
    as_vllm_left_it(output, torch.tensor([0.7, 1.3]), torch.tensor([2, 5], dtype=torch.int32), 0, 1)
    assert output.tolist() == [7.5] * 5


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=1))
@pytest.mark.parametrize(("dtype", "unit"), [(torch.float32, 0.35), (torch.int32, 1), (torch.int64, 1)])
def test_every_row_gets_its_requests_value(dtype: torch.dtype, unit: float, requests: list[tuple[int, int]]) -> None:
    values = torch.tensor([value * unit for value, _ in requests], dtype=dtype)
    rows = torch.tensor([rows for _, rows in requests])
    output = torch.full((int(rows.sum()),), -1, dtype=dtype)
    expand(output, values, rows.cumsum(0).int(), 0, 1, 128)
    expected = [value * unit if value else 1 for value, rows in requests for _ in range(rows)]
    assert output.tolist() == torch.tensor(expected, dtype=dtype).tolist()


@pytest.mark.parametrize(
    ("device", "executor", "rightly"),
    [
        ("cpu", "streamserve.lanes.vllm.executor.LaneExecutor", True),
        ("cpu", "uni", True),
        ("cpu", "mp", False),
        ("cuda", "mp", True),
    ],
)
def test_workers_that_vllm_spawns_are_not_corrected(device: str, executor: str, rightly: bool) -> None:
    config = SimpleNamespace(
        device_config=SimpleNamespace(device_type=device),
        parallel_config=SimpleNamespace(distributed_executor_backend=executor),
    )
    assert draws_rightly(cast(VllmConfig, config)) is rightly


def sampled(asked: Sequence[Asked], seeds: Sequence[int] | None = None) -> list[tuple[int, ...]]:
    """One step of this batch; per request the tokens that it gained."""
    drafted = [len(one.drafts) for one in asked]
    ends = np.cumsum([count + 1 for count in drafted])
    logits = torch.cat([LOGITS[: count + 1] for count in drafted])
    seeded = {i: torch.Generator().manual_seed(seed) for i, seed in enumerate(seeds or ())}
    sampling, sampler = sampling_metadata(asked, seeded), Sampler()
    if not any(drafted):
        return [(token,) for token in sampler(logits, sampling).sampled_token_ids.flatten().tolist()]
    spec = SpecDecodeMetadata.make_dummy([list(one.drafts) for one in asked], torch.device("cpu"))
    spec.bonus_logits_indices = torch.from_numpy(ends - 1)
    rows = [row for start, end in pairwise([0, *ends]) for row in range(start, end - 1)]
    spec.target_logits_indices = torch.tensor(rows)
    output = RejectionSampler(sampler)(spec, None, logits, sampling).sampled_token_ids.tolist()
    gained = [tuple(token for token in row if token >= 0) for row in output]
    assert all(row[: len(kept)] == list(kept) for row, kept in zip(output, gained, strict=True)), "-1 before a token"
    return gained


def sampling_metadata(asked: Sequence[Asked], generators: dict[int, torch.Generator]) -> SamplingMetadata:
    temperature = torch.tensor([one.temperature for one in asked])
    greedy = temperature == 0
    none = torch.zeros(len(asked))
    given: dict[str, Any] = {
        "temperature": temperature,
        "all_greedy": bool(greedy.all()),
        "all_random": not greedy.any(),
        "top_k": torch.tensor([one.top_k for one in asked], dtype=torch.int32),
        "top_p": torch.tensor([one.top_p for one in asked]),
        "generators": generators,
        "frequency_penalties": none,
        "presence_penalties": none,
        "repetition_penalties": none,
        "output_token_ids": [[] for _ in asked],
    }
    nothing: dict[str, Any] = {"max_num_logprobs": None, "prompt_token_ids": None, "allowed_token_ids_mask": None}
    return SamplingMetadata(
        **given, **nothing, no_penalties=True, bad_words_token_ids={}, logitsprocs=LogitsProcessors()
    )


def surprise(outputs: Sequence[tuple[int, ...]], asked: Asked) -> float:
    """By how many standard deviations chi square of the outputs' counts is above what it is on average."""
    expected = {output: share * len(outputs) for output, share in distribution(asked).items()}
    counts = dict.fromkeys(expected, 0)
    for output in outputs:
        assert output in counts, f"{output} cannot come"
        counts[output] += 1
    often = [output for output, count in expected.items() if count >= 5]
    rest = [output for output in expected if output not in often]
    pairs = [(counts[output], expected[output]) for output in often]
    if rest and (rare := sum(expected[output] for output in rest)) >= 1:
        pairs.append((sum(counts[output] for output in rest), rare))
    freedom = max(1, len(pairs) - 1)
    chi_square = sum((count - share) ** 2 / share for count, share in pairs)
    return float((chi_square - freedom) / np.sqrt(2 * freedom))


def distribution(asked: Asked) -> dict[tuple[int, ...], float]:
    """The probability of all that a step can bring: drafts as far as they come, then one token more."""
    shares: dict[tuple[int, ...], float] = {}
    until_here = 1.0
    for place in range(len(asked.drafts) + 1):
        kept = tuple(asked.drafts[:place])
        drafted = asked.drafts[place] if place < len(asked.drafts) else None
        for token, share in enumerate(probabilities(LOGITS[place].double().numpy(), asked)):
            if token != drafted and share:
                shares[(*kept, token)] = until_here * share
            elif token == drafted:
                next_one = until_here * share
        until_here = next_one if drafted is not None else 0.0
    return {output: share for output, share in shares.items() if share}


def probabilities(logits: "np.ndarray[Any, np.dtype[np.float64]]", asked: Asked) -> list[float]:
    """What `asked` makes of a row of logits: top_k and top_p leave the likeliest, by the book."""
    if asked.temperature == 0:
        return [float(token == logits.argmax()) for token in range(VOCABULARY)]
    likeliest = np.argsort(-logits)[: asked.top_k]
    weights = np.exp((logits[likeliest] - logits.max()) / asked.temperature)
    weights /= weights.sum()
    before = np.cumsum(weights) - weights
    weights = np.where(before < asked.top_p, weights, 0.0)
    shares = np.zeros(VOCABULARY)
    shares[likeliest] = weights / weights.sum()
    return [float(share) for share in shares]
