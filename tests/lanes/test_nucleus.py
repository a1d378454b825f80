"""top_k and top_p keep what vLLM keeps."""

import pytest
import torch
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch

from streamserve.lanes.vllm.nucleus import keep_likeliest

ROWS = 24


@pytest.mark.parametrize("limit", [False, True], ids=["top_p", "top_k and top_p"])
@pytest.mark.parametrize("spread", [0.5, 3.0, 8.0])
@pytest.mark.parametrize("vocabulary", [7, 300, 5000])
def test_the_same_logits_are_kept(vocabulary: int, spread: float, limit: bool) -> None:
    logits, k, p = case(vocabulary, spread)
    kept = keep_likeliest(logits.clone(), k if limit else None, p)
    assert torch.equal(kept, apply_top_k_top_p_pytorch(logits, k if limit else None, p))


@pytest.mark.parametrize("limit", [False, True], ids=["top_p", "top_k and top_p"])
@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0])
def test_of_equal_logits_at_the_limit_as_many_are_kept(spread: float, limit: bool) -> None:
    logits, k, p = case(2000, spread)
    logits = logits.bfloat16().float()
    kept = keep_likeliest(logits.clone(), k if limit else None, p)
    vllms = apply_top_k_top_p_pytorch(logits.clone(), k if limit else None, p)
    assert torch.equal(kept.sort(dim=-1).values, vllms.sort(dim=-1).values)
    assert torch.equal(kept[kept.isfinite()], logits[kept.isfinite()])


def test_what_may_not_come_stays_so() -> None:
    logits, _, p = case(50, 1.0)
    logits[:, ::2] = -torch.inf
    kept = keep_likeliest(logits.clone(), None, p)
    assert kept[:, ::2].isneginf().all()
    assert torch.equal(kept, apply_top_k_top_p_pytorch(logits, None, p))


def test_the_likeliest_always_stays() -> None:
    logits, k, _ = case(50, 3.0)
    kept = keep_likeliest(logits.clone(), torch.ones_like(k), torch.full((ROWS,), 1e-6))
    assert kept.isfinite().sum(dim=-1).tolist() == [1] * ROWS
    assert torch.equal(kept.argmax(dim=-1), logits.argmax(dim=-1))


def case(vocabulary: int, spread: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, and a top_k and top_p per row, no limit among them."""
    random = torch.Generator().manual_seed(vocabulary)
    logits = torch.randn((ROWS, vocabulary), generator=random) * spread
    k = torch.randint(1, vocabulary + 1, (ROWS,), generator=random)
    p = torch.rand(ROWS, generator=random) * 0.99 + 0.01
    k[:4], p[2:6] = vocabulary, 1.0
    return logits, k, p
