"""vLLM's scheduler with SpecuStream in it: between two steps it cuts each request's draft to the depth decided for it.

Runs in the engine's process. Besides depth it does three things: it cuts prompts into chunks that stall no decode for
longer than `engine.stall_s`, it reports what a step cost and what is queued, with vLLM's own statistics, and it adds
calls to the engine core, by which the front sets the depth control, ends the warm-up, and reads what the rule itself
costs.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import wraps
from typing import Any, cast

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.engine.core import EngineCore
from vllm.v1.metrics.stats import SchedulerStats
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request

from streamserve.lanes.vllm.alternation import Alternation
from streamserve.lanes.vllm.controls import REPORT, decoded, deepest, encoded
from streamserve.lanes.vllm.verification import draws_rightly
from streamserve.signals import StepCost
from streamserve.specustream.cost import StepCostModel
from streamserve.specustream.draft import NO_DRAFT, Draft, by_position
from streamserve.specustream.history import HistoryDrafter
from streamserve.specustream.specustream import RunningDraft, SpecuStream

ALTERNATING_S = 3600.0

DRAFTS_COST_NOTHING = ("ngram", "custom_class")
"""Drafters that are asked for full drafts at any depth: what is not verified still teaches the rule."""


class LaneScheduler(Scheduler):
    """`Scheduler` whose depth is SpecuStream's; with speculation off it only reports."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        speculative = self.vllm_config.speculative_config
        self._max_depth = self.num_spec_tokens if speculative is not None else 0
        self._model_drafts = speculative is not None and speculative.method not in DRAFTS_COST_NOTHING
        self._settings = cast(dict[str, Any], self.vllm_config.additional_config)["streamserve"]
        self._stall_s: float | None = self._settings["stall_s"]
        self._greedy_only = not draws_rightly(self.vllm_config)
        self._history = self._new_history()
        self._specustream = self._new_specustream()
        self._begun_s = 0.0
        self._step: dict[str, Any] = {}
        self._preempted = False
        self._alternation: Alternation | None = None
        self._rule_s = 0.0
        self._steps_s = 0.0
        self._steps = 0

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        self._begun_s = time.perf_counter()
        if self._max_depth:
            self._cut_drafts()
            self._rule_s += time.perf_counter() - self._begun_s
        whole: int = self.max_num_scheduled_tokens
        if self._stall_s is not None:
            self.max_num_scheduled_tokens = step_tokens(self.running, self._specustream.cost, self._stall_s, whole)
        try:
            output = super().schedule(throttle_prefills)
        finally:
            self.max_num_scheduled_tokens = whole
        self._note(output)
        return output

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        if scheduler_output.num_scheduled_tokens:
            step_s = time.perf_counter() - self._begun_s
            self._step["step_s"] = step_s
            if self._max_depth:
                self._learn(model_runner_output, step_s)
            elif self._stall_s is not None:
                self._specustream.step(step_s, self._step["prefill_tokens"], self._step["decode_tokens"], 0)
            self._steps += 1
            self._steps_s += step_s
        return super().update_from_output(scheduler_output, model_runner_output)

    def _free_request(self, request: Request, *arguments: Any, **keywords: Any) -> Any:
        self._specustream.forget(request.request_id)
        if self._history is not None:
            self._history.forget(request.request_id)
        return super()._free_request(request, *arguments, **keywords)

    def make_stats(self, *arguments: Any, **keywords: Any) -> SchedulerStats | None:
        stats = super().make_stats(*arguments, **keywords)
        if stats is not None:
            stats.ec_connector_stats = {REPORT: self._report()}
        return stats

    def forget(self, keep_cost: bool = False) -> None:
        """Drop what was learned so far, the control and the texts; what steps cost may be kept."""
        self.forget_history()
        self._specustream = self._new_specustream(self._specustream.cost_model if keep_cost else None)
        self.rule_cost()

    def forget_history(self) -> None:
        """Drop the texts that drafts are made from."""
        self._history = self._new_history()

    def set_depth(self, control: list[Any] | None, ttl_s: float) -> None:
        """Set the depth control; the next step is cut by it."""
        self._specustream.set_control(None if control is None else decoded(control), ttl_s)

    def alternate(self, controls: list[list[Any]], steps: int, requests: int) -> None:
        """Try these controls in turn, `steps` steps each; see `Alternation`. Without any, stop that."""
        given = [decoded(control) for control in controls]
        self._alternation = Alternation(given, steps, requests) if given else None
        self._specustream.set_control(self._alternation.control if self._alternation else None, ALTERNATING_S)

    def tallies(self) -> list[dict[str, Any]]:
        """What each of the controls brought so far."""
        return [asdict(tally) for tally in self._alternation.tallies] if self._alternation else []

    def rule_cost(self) -> dict[str, float]:
        """Seconds spent deciding depths, and in all steps, since the last call."""
        cost = {"steps": self._steps, "rule_s": self._rule_s, "step_s": self._steps_s}
        self._steps, self._rule_s, self._steps_s = 0, 0.0, 0.0
        return cost

    def _new_history(self) -> HistoryDrafter | None:
        return HistoryDrafter(*self._settings["history"]) if self._settings["history"] else None

    def _new_specustream(self, cost: StepCostModel | None = None) -> SpecuStream:
        guesses = self._history.guesses() if self._history else None
        return SpecuStream(decoded(self._settings["control"]), self._max_depth, time.monotonic, guesses, cost)

    def _cut_drafts(self) -> None:
        drafts = {}
        decoding = prefill_tokens = 0
        for request in self.running:
            if left := prefill_left(request):
                prefill_tokens += left
                continue
            decoding += 1
            cap = depth_cap(request, self._greedy_only)
            draft = self._draft(request, cap)
            if draft.tokens:
                drafts[request.request_id] = RunningDraft(draft, cap)
        if not decoding:
            return
        # With a full batch nobody who waits is let in; beside prompts that are not there, drafts would look free.
        if len(self.running) < self.max_num_running_reqs:
            prefill_tokens += self._waiting_tokens()
        most = self._specustream.cost.chunk_tokens(decoding, self._stall_s, self.max_num_scheduled_tokens)
        depths = self._specustream.decide(
            drafts,
            decoding,
            min(prefill_tokens, most),
            self.kv_cache_manager.usage,
            self._preempted,
        )
        for request_id, running in drafts.items():
            self.requests[request_id].spec_token_ids = list(running.draft.tokens[: depths[request_id]])
        if self.dynamic_sd_lookup is not None and self._model_drafts:
            useful = deepest(self._specustream.control, self._max_depth)
            self.dynamic_sd_lookup[1:] = [useful] * (len(self.dynamic_sd_lookup) - 1)

    def _draft(self, request: Request, cap: int) -> Draft:
        if self._history is None:
            return by_position(request.spec_token_ids, self._max_depth) if request.spec_token_ids else NO_DRAFT
        depth = min(cap, self._max_depth)
        draft = self._history.draft(request.request_id, request.all_token_ids, request.num_prompt_tokens, depth)
        if not request.use_structured_output:
            return draft
        tokens = self.structured_output_manager.validate_tokens(request, list(draft.tokens))
        return Draft(tokens, draft.kinds[: len(tokens)])

    def _note(self, output: SchedulerOutput) -> None:
        self._preempted = bool(output.preempted_req_ids)
        drafts = output.scheduled_spec_decode_tokens
        prefill = decode = requests = draft_tokens = context = 0
        attention = 0.0
        for request_id, tokens in output.num_scheduled_tokens.items():
            draft = len(drafts.get(request_id, ()))
            # vLLM has counted this step's tokens as computed already.
            before = self.requests[request_id].num_computed_tokens - tokens
            if tokens == draft + 1:
                decode += tokens
                requests += 1
                draft_tokens += draft
                context += before
            else:
                prefill += tokens
                attention += tokens * (before + tokens / 2)
        self._step = {
            "prefill_tokens": prefill,
            "decode_tokens": decode,
            "requests": requests,
            "draft_tokens": draft_tokens,
            "context_tokens": context,
            "attention_tokens": attention,
        }

    def _learn(self, output: ModelRunnerOutput, step_s: float) -> None:
        begun_s = time.perf_counter()
        step = self._step
        gained = 0
        for request_id, place in output.req_id_to_index.items():
            if tokens := output.sampled_token_ids[place] if output.sampled_token_ids else None:
                self._specustream.observe(request_id, tokens)
                gained += len(tokens)
        self._specustream.step(step_s, step["prefill_tokens"], step["decode_tokens"], step["draft_tokens"])
        if self._alternation is not None:
            self._alternation.step(step_s, gained, step["draft_tokens"], step["requests"], step["prefill_tokens"])
            self._specustream.set_control(self._alternation.control, ALTERNATING_S)
        self._rule_s += time.perf_counter() - begun_s

    def _waiting_tokens(self) -> int:
        """Prompt tokens that wait to be computed here; KV that is fetched from another lane is not."""
        fetched = "do_remote_prefill"
        return sum(
            prefill_left(request) for request in self.waiting if not (request.kv_transfer_params or {}).get(fetched)
        )

    def _report(self) -> dict[str, Any]:
        queued = self._waiting_tokens() + sum(map(prefill_left, self.running))
        pool = self.kv_cache_manager.block_pool
        report = self._step | {
            "prefill_queued_tokens": queued,
            "max_running": self.max_num_running_reqs,
            "kv_tokens": pool.num_gpu_blocks * self.block_size,
            "block_tokens": self.block_size,
        }
        if self._max_depth:
            specustream = self._specustream
            report |= {
                "draft_tokens_total": specustream.draft_tokens_total,
                "accepted_tokens_total": specustream.accepted_tokens_total,
                "acceptance": list(specustream.acceptance),
                "step_output": specustream.step_output,
                "control": encoded(specustream.control),
                "fallbacks": specustream.fallbacks,
            }
        return report


def prefill_left(request: Request) -> int:
    """Tokens to compute before the request decodes: of its prompt and, after a preemption, of its output so far."""
    if request.is_prefill_chunk or request.num_computed_tokens < request.num_prompt_tokens:
        return request.num_tokens - request.num_computed_tokens
    return 0


def step_tokens(running: Iterable[Request], cost: StepCost, stall_s: float, most: int) -> int:
    """Of a step of `most` tokens: all or, where some decode, theirs and as many of prompts as may stall them."""
    decode = sum(1 + len(request.spec_token_ids) for request in running if not prefill_left(request))
    return decode + cost.chunk_tokens(decode, stall_s, most - decode)


def depth_cap(request: Request, greedy_only: bool = False) -> int:
    """The deepest that this request may go.

    greedy_only: no drafts for requests that sample, where their verification is not right (`verification`).

    Below min_tokens vLLM forbids the end for the last token of a step by where the step began: a step that reached
    beyond would give another text than one token at a time.

    A seeded sampler draws differently at another depth, and vLLM applies min_p and logit_bias to the last token of a
    step only: such requests take one token at a time, instead of being refused as vLLM does.
    """
    sampling = request.sampling_params
    if sampling is None:
        return 0
    if sampling.temperature and (greedy_only or sampling.seed is not None):
        return 0
    if sampling.min_p or sampling.logit_bias:
        return 0
    reach = request.max_tokens if request.num_output_tokens >= sampling.min_tokens else sampling.min_tokens
    left = reach - request.num_output_tokens - 1
    asked = (sampling.extra_args or {}).get("max_depth")
    return left if asked is None else min(left, asked)


def _offered(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of the scheduler as one of the engine core, which looks at its signature when the front calls it."""

    @wraps(method)
    def call(core: EngineCore, *arguments: Any) -> Any:
        return method(core.scheduler, *arguments)

    return call


# The engine core calls its own methods by name when the front asks; these become such methods.
OFFERED: dict[str, Callable[..., Any]] = {
    "forget": LaneScheduler.forget,
    "forget_history": LaneScheduler.forget_history,
    "depth": LaneScheduler.set_depth,
    "alternate": LaneScheduler.alternate,
    "tallies": LaneScheduler.tallies,
    "rule_cost": LaneScheduler.rule_cost,
}
for name, method in OFFERED.items():
    setattr(EngineCore, f"streamserve_{name}", _offered(method))
