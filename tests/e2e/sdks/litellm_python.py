"""Plays every scenario with LiteLLM as a client, and prints what came of each as JSON. Run by test_frameworks.py."""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would be fetched from afar
import litellm

BASE_URL, KEY, MODEL = sys.argv[1:4]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PLACE = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "count": {"type": "integer"}},
    "required": ["city", "count"],
    "additionalProperties": False,
}


def ask(prompt: str | list[Any], model: str = MODEL, **options: Any) -> Any:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return litellm.completion(
        model=f"openai/{model}",
        api_base=BASE_URL,
        api_key=KEY,
        messages=messages,
        max_retries=0,
        timeout=60,
        **options,
    )


def script(**directions: Any) -> str:
    return "SCRIPT " + json.dumps(directions)


CALLS = script(tool_calls=[{"id": "call_1", "name": "weather", "arguments": ['{"city":', '"Rome"}']}])


def plain() -> object:
    answer = ask([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello there"}])
    [choice] = answer.choices
    return [choice.message.content, choice.finish_reason, answer.usage.total_tokens > answer.usage.prompt_tokens > 0]


def stream() -> object:
    chunks = list(ask(script(text=["a", "b", "c"]), stream=True, stream_options={"include_usage": True}))
    texts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    usages = [chunk.usage for chunk in chunks if getattr(chunk, "usage", None)]
    return ["".join(texts), sum(map(bool, texts)), usages[-1].completion_tokens]


def tools() -> object:
    plain = ask(CALLS, tools=[WEATHER])
    streamed = litellm.stream_chunk_builder(list(ask(CALLS, tools=[WEATHER], stream=True)))
    calls = [call for answer in (plain, streamed) for call in answer.choices[0].message.tool_calls]
    return [[call.function.name, json.loads(call.function.arguments), call.id] for call in calls]


def tool_result() -> object:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    return ask(messages, tools=[WEATHER]).choices[0].message.content


def structured() -> object:
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE, "strict": True}}
    return json.loads(ask("anything", response_format=form).choices[0].message.content)


def failure(prompt: str, model: str = MODEL, *, stream: bool = False) -> object:
    said = ""
    try:
        answer = ask(prompt, model, stream=stream)
        if stream:
            for chunk in answer:
                said += chunk.choices[0].delta.content or ""
    except litellm.exceptions.MidStreamFallbackError:
        return [None, said]
    except litellm.APIError as error:
        return [None if said else error.status_code, said]
    except (litellm.NotFoundError, litellm.RateLimitError) as error:
        return [error.status_code, said]
    return ["no failure", said]


json.dump(
    {
        "version": version("litellm"),
        "plain": plain(),
        "stream": stream(),
        "tools": tools(),
        "tool_result": tool_result(),
        "structured": structured(),
        "unknown_model": failure("hi", "no/such"),
        "rate_limited": failure(script(fail_before={"reason": "PROVIDER_RATE_LIMITED"})),
        "rate_limited_stream": failure(script(fail_before={"reason": "PROVIDER_RATE_LIMITED"}), stream=True),
        "fails_midway": failure(script(text=["a", "b"], fail_after=2), stream=True),
    },
    sys.stdout,
)
