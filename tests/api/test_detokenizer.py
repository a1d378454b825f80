"""From chunks to vLLM's outputs, with a tokenizer whose words are single letters."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from vllm.config import VllmConfig
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine import EngineCoreEvent, EngineCoreEventType, EngineCoreOutput, EngineCoreRequest, FinishReason
from vllm.v1.metrics.stats import IterationStats

from streamserve.api.detokenizer import Detokenizer
from streamserve.api.metrics import EngineMetrics
from streamserve.types import Chunk, LaneId

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Metrics:
    """Remembers the index of the lane that each chunk was counted for."""

    def __init__(self) -> None:
        self.lanes: list[int] = []
        self.stats = IterationStats()

    def iteration(self, lane: int) -> IterationStats:
        self.lanes.append(lane)
        return self.stats


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def letters(metrics: Metrics) -> Detokenizer:
    """A detokenizer whose words are the letters."""
    model = Tokenizer(WordLevel({letter: index for index, letter in enumerate(LETTERS)}, unk_token="z"))
    model.decoder = Fuse()
    config = SimpleNamespace(scheduler_config=SimpleNamespace(stream_interval=1))
    return Detokenizer(
        cast(VllmConfig, config),
        PreTrainedTokenizerFast(tokenizer_object=model),
        cast(EngineMetrics, metrics),
        {LaneId("lane-0"): 0, LaneId("lane-1"): 1},
    )


@pytest.fixture
def detokenizer(metrics: Metrics) -> Detokenizer:
    return letters(metrics)


def make_request(id: str = "r", **sampling: Any) -> EngineCoreRequest:
    return EngineCoreRequest(
        request_id=id,
        prompt_token_ids=ids("ab"),
        mm_features=None,
        sampling_params=SamplingParams(**{"max_tokens": 8, "output_kind": RequestOutputKind.DELTA, **sampling}),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
        external_req_id=f"client-{id}",
    )


def ids(text: str) -> list[int]:
    return [LETTERS.index(letter) for letter in text]


def chunk(text: str, finish: FinishReason | None = None, id: str = "r", lane: str | None = "lane-0") -> Chunk:
    output = EngineCoreOutput(id, ids(text), finish_reason=finish)
    return Chunk(output.new_token_ids, 1.0, None, output, LaneId(lane) if lane else None)


def texts(outputs: list[RequestOutput]) -> list[str]:
    return [output.outputs[0].text for output in outputs]


def test_tokens_become_text_until_the_finish(detokenizer: Detokenizer) -> None:
    detokenizer.open(make_request(), "ab")
    assert texts(detokenizer.feed(chunk("cd"))) == ["cd"]
    assert detokenizer.is_open("r")
    (last,) = detokenizer.feed(chunk("e", FinishReason.LENGTH))
    assert (last.outputs[0].text, last.outputs[0].finish_reason, last.finished) == ("e", "length", True)
    assert (last.request_id, last.prompt, last.prompt_token_ids) == ("client-r", "ab", [0, 1])
    assert not detokenizer.is_open("r")
    assert detokenizer.open_requests == 0


def test_a_stop_string_ends_a_request_that_its_engine_would_continue(detokenizer: Detokenizer) -> None:
    detokenizer.open(make_request(stop=["de"]), "ab")
    assert texts(detokenizer.feed(chunk("cd"))) == ["c"]
    (last,) = detokenizer.feed(chunk("ef"))
    assert (last.outputs[0].text, last.outputs[0].finish_reason, last.outputs[0].stop_reason) == ("", "stop", "de")
    assert not detokenizer.is_open("r")


def test_only_the_last_output_is_told_where_nobody_streams(detokenizer: Detokenizer) -> None:
    detokenizer.open(make_request(output_kind=RequestOutputKind.FINAL_ONLY), "ab")
    assert detokenizer.feed(chunk("cd")) == []
    assert texts(detokenizer.feed(chunk("e", FinishReason.LENGTH))) == ["cde"]


def test_requests_do_not_mix(detokenizer: Detokenizer) -> None:
    for id in ("r", "s"):
        detokenizer.open(make_request(id), "ab")
    assert texts(detokenizer.feed(chunk("c"))) == ["c"]
    assert texts(detokenizer.feed(chunk("x", id="s"))) == ["x"]
    assert detokenizer.open_requests == 2


def test_a_closed_request_is_forgotten(detokenizer: Detokenizer) -> None:
    detokenizer.open(make_request(), "ab")
    detokenizer.close("r")
    detokenizer.close("r")
    assert not detokenizer.is_open("r")
    assert detokenizer.feed(chunk("c")) == []
    assert detokenizer.open_requests == 0


def test_every_chunk_counts_for_the_lane_that_made_it(detokenizer: Detokenizer, metrics: Metrics) -> None:
    detokenizer.open(make_request(), "ab")
    for lane in ("lane-1", "lane-0", None):
        detokenizer.feed(chunk("c", lane=lane))
    assert metrics.lanes == [1, 0, 0]
    assert metrics.stats.num_generation_tokens == 3


def test_a_request_that_goes_on_at_a_second_engine_has_waited_at_the_first_alone(
    detokenizer: Detokenizer, metrics: Metrics
) -> None:
    queued, scheduled, preempted = (
        EngineCoreEventType.QUEUED,
        EngineCoreEventType.SCHEDULED,
        EngineCoreEventType.PREEMPTED,
    )
    detokenizer.open(make_request(), "ab")
    for text, finish, happened in (
        ("c", None, [(queued, 10.0), (scheduled, 12.0)]),
        ("d", None, [(queued, 20.0), (scheduled, 21.0)]),
        ("e", FinishReason.LENGTH, [(preempted, 22.0), (scheduled, 23.0)]),
    ):
        part = chunk(text, finish)
        part.output.events = [EngineCoreEvent(kind, at_s) for kind, at_s in happened]
        detokenizer.feed(part)
    (finished,) = metrics.stats.finished_requests
    assert (finished.queued_time, finished.num_preemptions) == (2.0, 1)
