"""The official clients against a served model of the local engine."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx
import jsonschema
import openai
import pytest
from stage import HELLO, HTTP, Stage, eventually

SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 99,
          "minimum": 0}}, "required": ["name", "age"], "additionalProperties": False}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "maxLength": 6}}, "required": ["city"],
    "additionalProperties": False}}}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {
    "type": "object", "properties": {"zone": {"enum": ["utc", "cet"]}}, "required": ["zone"], "additionalProperties": False}}}


def ask(stage: Stage, **options: Any) -> Any:
    return stage.openai().chat.completions.create(**{"model": "tiny", "messages": HELLO, "max_tokens": 12, "seed": 1, **options})


def test_models(tiny: Stage) -> None:
    client = tiny.openai()
    assert [model.id for model in client.models.list()] == ["tiny", "ownship/auto"]
    assert client.models.retrieve("tiny").id == "tiny"
    assert [model.id for model in tiny.anthropic().models.list()] == ["tiny", "ownship/auto"]
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("org/other")
    assert error.value.code == "model_not_found"


def test_chat_and_stream_say_the_same(tiny: Stage) -> None:
    whole = ask(tiny)
    assert whole.model == "tiny" and whole.choices[0].message.role == "assistant" and whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 12 and whole.usage.total_tokens == whole.usage.prompt_tokens + 12
    chunks = list(ask(tiny, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["length"]
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == whole.choices[0].message.content
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 12
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert {chunk.model for chunk in chunks} == {"tiny"}


def test_the_second_time_the_prompt_is_cached(tiny: Stage) -> None:
    long = [{"role": "user", "content": "a long beginning " * 20}]
    ask(tiny, messages=long)
    assert ask(tiny, messages=long).usage.prompt_tokens_details.cached_tokens > 100


def test_n_stop_seed(tiny: Stage) -> None:
    several = ask(tiny, n=3)
    texts = [choice.message.content for choice in several.choices]
    assert [choice.index for choice in several.choices] == [0, 1, 2] and len(set(texts)) == 3
    assert texts[0] == ask(tiny).choices[0].message.content
    assert several.usage.completion_tokens == 36
    assert ask(tiny, seed=2).choices[0].message.content != texts[0]
    cut = ask(tiny, stop=[texts[0][4:7]]).choices[0]
    assert cut.finish_reason == "stop" and cut.message.content == texts[0][: texts[0].index(texts[0][4:7])]
    for options in ({"max_completion_tokens": 3}, {"max_tokens": 9, "max_completion_tokens": 3}):
        assert ask(tiny, **options).usage.completion_tokens == 3


def test_logprobs(tiny: Stage) -> None:
    scored = ask(tiny, logprobs=True, top_logprobs=2, temperature=0).choices[0].logprobs.content
    assert len(scored) == 12
    for token in scored:
        assert token.logprob == token.top_logprobs[0].logprob and token.top_logprobs[0].logprob > token.top_logprobs[1].logprob
    streamed = [token for chunk in ask(tiny, logprobs=True, top_logprobs=2, temperature=0, stream=True)
                for choice in chunk.choices if choice.logprobs for token in choice.logprobs.content]
    assert [token.logprob for token in streamed] == [token.logprob for token in scored]


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_is_enforced(tiny: Stage, stream: bool) -> None:
    format = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
    reply = ask(tiny, response_format=format, max_tokens=200, stream=stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in reply) if stream else reply.choices[0].message.content
    jsonschema.validate(json.loads(text), SCHEMA)
    # whatever the model thinks before
    reasoned = ask(tiny, response_format=format, max_tokens=300, reasoning_effort="low").choices[0].message
    jsonschema.validate(json.loads(reasoned.content), SCHEMA)


def test_an_unsupported_schema_is_refused(tiny: Stage) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        ask(tiny, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}})
    assert error.value.code == "unsupported_schema" and error.value.param == "response_format"


def test_tools(tiny: Stage) -> None:
    forced = ask(tiny, tools=[WEATHER, CLOCK], tool_choice={"type": "function", "function": {"name": "clock"}}, max_tokens=200)
    call = forced.choices[0].message.tool_calls[0]
    assert forced.choices[0].finish_reason == "tool_calls" and call.function.name == "clock"
    assert json.loads(call.function.arguments)["zone"] in ("utc", "cet")
    required = ask(tiny, tools=[WEATHER, CLOCK], tool_choice="required", parallel_tool_calls=False, max_tokens=200)
    assert len(required.choices[0].message.tool_calls) == 1
    # auto and none: a model without a plan says what it likes, and calls nothing that is not there
    for choice in ("auto", "none"):
        message = ask(tiny, tools=[WEATHER, CLOCK], tool_choice=choice).choices[0].message
        assert choice == "auto" or not message.tool_calls
    chunks = list(ask(tiny, tools=[CLOCK], tool_choice="required", max_tokens=200, stream=True, parallel_tool_calls=False))
    deltas = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    assert deltas[0].id and deltas[0].function.name == "clock"
    assert json.loads("".join(delta.function.arguments or "" for delta in deltas))["zone"] in ("utc", "cet")
    # and the result goes back
    answer = ask(tiny, messages=[*HELLO, forced.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "noon"}],
                 tools=[WEATHER, CLOCK])
    assert answer.usage.completion_tokens > 0


def test_parallel_calls(tiny: Stage) -> None:
    """A tiny model calls until it happens to stop: some seed gives more than one call, each of them whole."""
    for seed in range(12):
        reply = ask(tiny, tools=[CLOCK], tool_choice="required", max_tokens=400, seed=seed, temperature=1.5).choices[0]
        calls = reply.message.tool_calls
        if reply.finish_reason == "tool_calls" and len(calls) > 1:
            assert len({call.id for call in calls}) == len(calls)
            assert all(json.loads(call.function.arguments)["zone"] in ("utc", "cet") for call in calls)
            return
    pytest.fail("no seed gave two calls")


def test_responses(tiny: Stage) -> None:
    client = tiny.openai()
    whole = client.responses.create(model="tiny", input="Hello!", max_output_tokens=16, temperature=0)
    assert whole.usage is not None and 1 <= whole.usage.output_tokens <= 16 and whole.output_text
    assert whole.status == ("incomplete" if whole.usage.output_tokens == 16 else "completed")
    events = list(client.responses.create(model="tiny", input="Hello!", max_output_tokens=16, temperature=0, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:4] == ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    assert kinds[-4:] == ["response.output_text.done", "response.content_part.done", "response.output_item.done",
                          f"response.{whole.status}"]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text


def test_messages(tiny: Stage) -> None:
    client = tiny.anthropic()
    body: Any = {"model": "tiny", "max_tokens": 10, "messages": HELLO, "extra_body": {"temperature": 0}}
    whole = client.messages.create(**body)
    assert whole.stop_reason == "max_tokens" and whole.usage.output_tokens == 10 and whole.model == "tiny"
    with client.messages.stream(**body) as stream:
        text = stream.get_final_text()
    assert whole.content[0].type == "text" and text == whole.content[0].text
    counted = client.messages.count_tokens(model="tiny", messages=HELLO)
    assert counted.input_tokens == whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)
    tool: Any = {"name": "clock", "input_schema": CLOCK["function"]["parameters"]}
    called = client.messages.create(**{**body, "max_tokens": 200}, tools=[tool], tool_choice={"type": "tool", "name": "clock"})
    assert called.stop_reason == "tool_use" and called.content[-1].type == "tool_use"
    assert called.content[-1].input["zone"] in ("utc", "cet")


def test_completions_as_evaluation_harnesses_ask(tiny: Stage) -> None:
    ids = tiny.post("/tokenize", {"prompt": "Hello you", "add_special_tokens": False}).json()["tokens"]
    assert tiny.post("/detokenize", {"tokens": ids}).json() == {"prompt": "Hello you"}
    body = {"model": "tiny", "prompt": [ids, ids[:4]], "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    reply = tiny.post("/v1/completions", body).json()
    assert [choice["index"] for choice in reply["choices"]] == [0, 1]
    for choice, prompt in zip(reply["choices"], (ids, ids[:4]), strict=True):
        scored = choice["logprobs"]
        assert len(scored["tokens"]) == len(scored["token_logprobs"]) == len(scored["text_offset"]) == len(prompt) + 1
        assert scored["token_logprobs"][0] is None and scored["top_logprobs"][0] is None
        for name, value, top in list(zip(scored["tokens"], scored["token_logprobs"], scored["top_logprobs"], strict=True))[1:]:
            assert top[name] == value
        assert scored["token_logprobs"][-1] == max(scored["top_logprobs"][-1].values())  # greedy
    none = tiny.post("/v1/completions", {**body, "max_tokens": 0}).json()["choices"][0]["logprobs"]
    assert none["token_logprobs"] == reply["choices"][0]["logprobs"]["token_logprobs"][:-1]
    info = HTTP.get(f"{tiny.url}/tokenizer_info").json()
    assert info["eos_token"] == "<|im_end|>" and "im_start" in info["chat_template"]


# What is refused


@pytest.mark.parametrize(("options", "kind", "param"), [
    ({"model": "gpt-4"}, openai.NotFoundError, "model"),
    ({"messages": []}, openai.BadRequestError, "messages"),
    ({"temperature": -1}, openai.BadRequestError, "temperature"),
    ({"extra_body": {"magic": 1}}, openai.BadRequestError, "magic"),
    ({"stop": [""]}, openai.BadRequestError, "stop"),
    ({"stream_options": {"include_usage": True}}, openai.BadRequestError, "stream_options"),
    ({"messages": [{"role": "user", "content": "x" * 5000}]}, openai.BadRequestError, "messages"),
    ({"max_tokens": 5000}, openai.BadRequestError, "messages"),
    ({"logit_bias": {"9999": 1}}, openai.BadRequestError, "logit_bias"),
    ({"tools": [WEATHER, WEATHER]}, openai.BadRequestError, None),
])
def test_errors_by_class(tiny: Stage, options: dict[str, Any], kind: Any, param: str | None) -> None:
    for stream in (False, True):
        if stream and "stream_options" in options:
            continue
        with pytest.raises(kind) as error:
            ask(tiny, **{**options, "stream": stream})
        assert error.value.param == param and error.value.type == "invalid_request_error"
    if "x" * 5000 in str(options) or options == {"max_tokens": 5000}:
        assert error.value.code == "context_length_exceeded"


def test_errors_as_anthropics_client_knows_them(tiny: Stage) -> None:
    client = tiny.anthropic()
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(model="other", max_tokens=5, messages=HELLO)
    assert missing.value.body["error"]["type"] == "not_found_error"  # type: ignore[index, call-overload]
    assert missing.value.request_id
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(model="tiny", max_tokens=0, messages=HELLO)


@pytest.mark.parametrize(("content", "kind", "status"), [
    (b"{", "application/json", 400), (b"", "application/json", 400), (b"[1]", "application/json", 400),
    (b"null", "application/json", 400), (b"\xff\xfe", "application/json", 400), (b"[" * 100_000, "application/json", 400),
    (b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}', "application/json", 400),
    (b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}]}', "text/plain", 400),
    (b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}]}', "application/x-www-form-urlencoded", 400),
    (b'{"model": "tiny", "temperature": NaN, "messages": [{"role": "user", "content": "x"}]}', "application/json", 400),
])
def test_malformed_bodies(tiny: Stage, content: bytes, kind: str, status: int) -> None:
    response = tiny.post("/v1/chat/completions", content=content, headers={"content-type": kind})
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/", 404), ("GET", "/v1/nothing", 404), ("GET", "/v1/chat/completions", 405), ("DELETE", "/v1/models", 405)])
def test_unknown_paths(tiny: Stage, method: str, path: str, status: int) -> None:
    response = HTTP.request(method, tiny.url + path)
    assert response.status_code == status and response.json()["error"]["type"] == "invalid_request_error"


# Clients that leave


@pytest.mark.parametrize("stream", [False, True])
def test_leaving_frees_the_slot(tiny: Stage, stream: bool) -> None:
    """Thousands of tokens are to be written; whoever leaves is not waited for."""
    before = tiny.metric("generation_tokens_total")
    with httpx.Client(timeout=60) as client:
        body = {"model": "tiny", "messages": HELLO, "max_tokens": 4000, "stream": stream, "logit_bias": {"257": -100}, "n": 4}
        if stream:
            with client.stream("POST", f"{tiny.url}/v1/chat/completions", json=body) as response:
                lines = response.iter_lines()  # let go, it would close the connection
                next(lines)
                eventually(lambda: tiny.metric("requests_running") == 4)
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post(f"{tiny.url}/v1/chat/completions", json=body, timeout=0.5)
    eventually(lambda: tiny.metric("requests_running") == 0)
    assert tiny.metric("generation_tokens_total") - before < 16_000
    eventually(lambda: tiny.metric("requests_total", status="499") >= 1)
    assert not tiny.app.replies.open


def test_metrics_have_the_fields_names(tiny: Stage) -> None:
    ask(tiny, stream=True).close()
    list(ask(tiny, stream=True))
    text = HTTP.get(f"{tiny.url}/metrics").text
    for name in ("requests_running", "requests_waiting", "kv_cache_usage_ratio", "prefix_cache_queries_total",
                 "prefix_cache_hits_total", "prompt_tokens_total", "generation_tokens_total", "time_to_first_token_seconds_bucket",
                 "inter_token_latency_seconds_bucket", "e2e_request_latency_seconds_bucket", "request_queue_seconds_bucket"):
        assert f"\nownship_{name}{{" in text, name
    assert tiny.metric("prefix_cache_hits_total") > 0 and tiny.metric("generation_tokens_total", model="tiny") > 12
    assert tiny.metric("inter_token_latency_seconds_count", model="tiny") >= 11
