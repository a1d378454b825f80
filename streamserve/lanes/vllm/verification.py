"""Verifying drafts of requests that sample, on CPU, where vLLM 0.32 draws from a wrong distribution.

A step that verifies drafts has a row of logits per draft token, so vLLM spreads each request's temperature, top_k and
top_p over its rows (`expand_batch_to_tokens`). Its CPU version fills a 64-bit integer copy of the buffer and drops
the copy, so rows are divided by whatever uninitialised memory held. Batches of only greedy requests never get there.
Known as https://github.com/vllm-project/vllm/issues/55005; the rest of vLLM's verification is right.
"""

import torch
from vllm.config import VllmConfig
from vllm.utils import cpu_triton_utils
from vllm.v1.executor import Executor
from vllm.v1.executor.uniproc_executor import UniProcExecutor


def correct_verification() -> None:
    """Have the CPU worker of this process expand rightly; called before there is one, since it looks this up once."""
    cpu_triton_utils._expand_kernel_impl = expand


def draws_rightly(config: VllmConfig) -> bool:
    """Whether drafts of requests that sample may be verified in a lane of this configuration.

    Other devices have kernels of their own. On CPU the correction reaches a worker in this very process only:
    tensor-parallel workers are spawned by vLLM.
    """
    return config.device_config.device_type != "cpu" or issubclass(Executor.get_class(config), UniProcExecutor)


def expand(
    output: torch.Tensor,
    values: torch.Tensor,
    ends: torch.Tensor,
    replace_from: float,
    replace_to: float,
    longest: int | None = None,
) -> None:
    """Write each request's value to all of its rows, `replace_from` as `replace_to`.

    output: (rows,), filled in place. values: (requests,), of the same type. ends: (requests,), the row behind each
    request's last. The order of arguments is that of vLLM's kernel, which passes them by place.
    """
    del longest
    rows = ends.diff(prepend=ends.new_zeros(1))
    output.copy_(values.masked_fill(values == replace_from, replace_to).repeat_interleave(rows))
