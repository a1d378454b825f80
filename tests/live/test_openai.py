"""The OpenAI surface over real lanes, driven by OpenAI's own client."""

import json

import httpx
import openai
import pytest

from tests.live.server import Server

pytestmark = pytest.mark.live

QUESTION = [{"role": "user", "content": "Explain what a hash table is."}]


def test_a_chat_runs_on_the_lanes_that_its_headers_name(server: Server) -> None:
    """One lane or two, as FlowGuard finds better; a pair that is forced to split is tried in test_equality."""
    before = server.lanes()
    response = server.openai.chat.completions.with_raw_response.create(
        model=server.model, messages=QUESTION, max_tokens=16, temperature=0, extra_headers={"X-Request-Id": "mine"}
    )
    prefill, decode = (response.headers[f"x-streamserve-{part}-lane"] for part in ("prefill", "decode"))
    assert response.headers["x-request-id"] == "mine"
    completion = response.parse()
    assert completion.choices[0].message.content.startswith("A hash table is a data structure")
    assert completion.usage.completion_tokens == 16
    after = server.lanes()
    computed = {lane: after[lane]["prompt_tokens_total"] - before[lane]["prompt_tokens_total"] for lane in after}
    made = {lane: after[lane]["output_tokens_total"] - before[lane]["output_tokens_total"] for lane in after}
    assert computed[prefill] == completion.usage.prompt_tokens
    assert sum(computed.values()) <= completion.usage.prompt_tokens + 1, "KV is computed once"
    expected = {prefill: 16} if prefill == decode else {prefill: 1, decode: 15}
    assert made == dict.fromkeys(after, 0) | expected


def test_streaming_yields_the_same_text_and_usage(server: Server) -> None:
    ask = {"model": server.model, "messages": QUESTION, "max_tokens": 24, "temperature": 0}
    # With speculation several tokens may come at once.
    ask["extra_headers"] = {"x-streamserve-max-depth": "0"}
    whole = server.openai.chat.completions.create(**ask)
    parts, usage = [], None
    for chunk in server.openai.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}):
        parts += [choice.delta.content or "" for choice in chunk.choices]
        usage = chunk.usage or usage
    assert "".join(parts) == whole.choices[0].message.content
    assert len(parts) > 20, "tokens arrive one by one, not all at the end"
    assert usage == whole.usage


def test_several_sequences_for_one_prompt(server: Server) -> None:
    response = server.openai.chat.completions.with_raw_response.create(
        model=server.model, messages=QUESTION, max_tokens=8, temperature=1.0, n=3
    )
    assert [choice.index for choice in response.parse().choices] == [0, 1, 2]
    lanes = response.headers["x-streamserve-decode-lane"].split(",")
    assert len(lanes) == 3 and set(lanes) <= {"lane-0", "lane-1"}


def test_several_prompts_in_one_completion(server: Server) -> None:
    prompts = ["One two three", "Once upon a time"]
    many = server.openai.completions.create(model=server.model, prompt=prompts, max_tokens=6, temperature=0)
    single = [
        server.openai.completions.create(model=server.model, prompt=prompt, max_tokens=6, temperature=0)
        for prompt in prompts
    ]
    assert [choice.text for choice in many.choices] == [one.choices[0].text for one in single]


def test_logprobs_of_every_token(server: Server) -> None:
    completion = server.openai.chat.completions.create(
        model=server.model, messages=QUESTION, max_tokens=5, temperature=0, logprobs=True, top_logprobs=3
    )
    entries = completion.choices[0].logprobs.content
    assert len(entries) == 5
    for entry in entries:
        assert entry.logprob <= 0
        assert entry.token == max(entry.top_logprobs, key=lambda top: top.logprob).token


def test_logprobs_of_the_prompt_are_read_by_one_engine(server: Server) -> None:
    response = server.openai.completions.with_raw_response.create(
        model=server.model, prompt="One two three", max_tokens=2, temperature=0, echo=True, logprobs=1
    )
    assert response.parse().choices[0].text.startswith("One two three")
    assert response.headers["x-streamserve-prefill-lane"] == response.headers["x-streamserve-decode-lane"]


def test_a_stop_string_ends_the_text_before_it(server: Server) -> None:
    completion = server.openai.completions.create(
        model=server.model, prompt="1 2 3 4 5 6", max_tokens=30, temperature=0, stop=["9"]
    )
    assert completion.choices[0].finish_reason == "stop"
    assert "8" in completion.choices[0].text and "9" not in completion.choices[0].text


def test_a_seed_repeats_and_another_differs(server: Server) -> None:
    def text(seed: int) -> str:
        ask = server.openai.chat.completions.create(
            model=server.model, messages=QUESTION, max_tokens=16, temperature=1.5, seed=seed
        )
        return str(ask.choices[0].message.content)

    assert text(7) == text(7)
    assert len({text(seed) for seed in range(7, 11)}) > 1


def test_penalties_reach_the_lane_that_samples(server: Server) -> None:
    def distinct_tokens(penalty: float) -> int:
        completion = server.openai.completions.create(
            model=server.model, prompt="Again and", max_tokens=48, temperature=0, logprobs=1, frequency_penalty=penalty
        )
        return len(set(completion.choices[0].logprobs.tokens))

    assert distinct_tokens(2.0) > distinct_tokens(0.0)


def test_output_follows_a_json_schema(server: Server) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "big": {"type": "boolean"}},
        "required": ["city", "big"],
        "additionalProperties": False,
    }
    completion = server.openai.chat.completions.create(
        model=server.model,
        messages=[{"role": "user", "content": "Describe Paris as JSON."}],
        max_tokens=64,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": schema}},
    )
    answer = json.loads(completion.choices[0].message.content)
    assert set(answer) == {"city", "big"} and isinstance(answer["big"], bool)


def test_a_required_tool_is_called(server: Server) -> None:
    parameters = {
        "type": "object",
        "properties": {"day": {"type": "string", "enum": ["today", "tomorrow"]}},
        "required": ["day"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": parameters, "strict": True}}
    completion = server.openai.chat.completions.create(
        model=server.model,
        messages=[{"role": "user", "content": "What is the weather?"}],
        tools=[tool],
        tool_choice="required",
        max_tokens=96,
        temperature=0,
    )
    call = completion.choices[0].message.tool_calls[0].function
    assert call.name == "get_weather"
    assert json.loads(call.arguments)["day"] in ("today", "tomorrow")


def test_a_client_that_leaves_frees_its_request_on_every_lane(server: Server) -> None:
    stream = server.openai.chat.completions.create(
        model=server.model, messages=QUESTION, max_tokens=2000, stream=True, extra_body={"ignore_eos": True}
    )
    for _, _ in zip(range(4), stream, strict=False):
        pass
    assert not server.idle()
    stream.close()
    server.wait_idle(within_s=10)


def test_models_tokenize_version_and_health(server: Server) -> None:
    assert server.model == "SmolLM2-135M-Instruct"
    tokens = httpx.post(f"{server.url}/tokenize", json={"model": server.model, "prompt": "Hello world"}).json()
    assert tokens["count"] == len(tokens["tokens"]) == 2
    health = server.get("/health")
    assert health["status"] == "ready" and health["lanes"] == {"lane-0": "ready", "lane-1": "ready"}
    assert health["policy"]["refused"] is None, "a shipped policy must be one that this server can load"


def test_metrics_keep_the_lanes_apart(server: Server) -> None:
    server.openai.completions.create(model=server.model, prompt="One two three", max_tokens=4, temperature=0)
    lines = httpx.get(f"{server.url}/metrics", follow_redirects=True).text.splitlines()
    for series in ("vllm:num_requests_running", "vllm:generation_tokens_total", "vllm:kv_cache_usage_perc"):
        engines = [line for line in lines if line.startswith(f"{series}{{")]
        assert [f'engine="{lane}"' in line for lane, line in enumerate(engines)] == [True, True], engines


def test_kv_transfer_parameters_of_a_client_are_ignored(server: Server) -> None:
    poison = {"do_remote_prefill": True, "remote_block_ids": [[1]], "remote_engine_id": "none", "remote_host": "x"}
    before = server.restarts()
    for _ in range(3):
        completion = server.openai.chat.completions.create(
            model=server.model,
            messages=QUESTION,
            max_tokens=4,
            temperature=0,
            extra_body={"kv_transfer_params": poison, "vllm_xargs": {"kv_transfer_params": "bad"}},
        )
        assert completion.choices[0].message.content.startswith("A hash table")
    assert server.restarts() == before


def test_too_long_a_prompt_is_a_400_that_names_the_limit(server: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length is 8192 tokens"):
        server.openai.completions.create(model=server.model, prompt="x " * 9000, max_tokens=5)


def test_an_unknown_model_is_a_404(server: Server) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-17"):
        server.openai.completions.create(model="gpt-17", prompt="x", max_tokens=5)
