"""Plays every scenario with LangChain's `ChatOpenAI`, and prints what came of each as JSON.

Run by test_frameworks.py.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from typing import Any

import openai
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

BASE_URL, KEY, MODEL = sys.argv[1:4]


def chat(model: str = MODEL) -> ChatOpenAI:
    return ChatOpenAI(model=model, base_url=BASE_URL, api_key=KEY, max_retries=0, timeout=60, stream_usage=True)


def script(**directions: Any) -> str:
    return "SCRIPT " + json.dumps(directions)


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Place(BaseModel):
    """A place."""

    city: str
    count: int


CALLS = script(tool_calls=[{"id": "call_1", "name": "weather", "arguments": ['{"city":', '"Rome"}']}])


def plain() -> object:
    answer = chat().invoke([SystemMessage("Be kind."), HumanMessage("hello there")])
    usage = answer.usage_metadata
    adds_up = usage["total_tokens"] > usage["input_tokens"] > 0
    return [answer.content, answer.response_metadata["finish_reason"], adds_up]


def stream() -> object:
    chunks = list(chat().stream(script(text=["a", "b", "c"])))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return [whole.content, sum(bool(chunk.content) for chunk in chunks), whole.usage_metadata["output_tokens"]]


def tools() -> object:
    bound = chat().bind_tools([WEATHER])
    plain = bound.invoke(CALLS)
    chunks = list(bound.stream(CALLS))
    streamed = chunks[0]
    for chunk in chunks[1:]:
        streamed += chunk
    return [[call["name"], call["args"], call["id"]] for answer in (plain, streamed) for call in answer.tool_calls]


def tool_result() -> object:
    asked = AIMessage("", tool_calls=[{"name": "weather", "args": {"city": "Rome"}, "id": "call_1"}])
    said = [HumanMessage("hi"), asked, ToolMessage("sunny", tool_call_id="call_1")]
    return chat().bind_tools([WEATHER]).invoke(said).content


def structured() -> object:
    made = chat().with_structured_output(Place, method="json_schema").invoke("anything")
    assert isinstance(made, Place)
    return made.model_dump()


def failure(prompt: str, model: str = MODEL, *, stream: bool = False) -> object:
    said = ""
    try:
        if stream:
            for chunk in chat(model).stream(prompt):
                said += str(chunk.content)
        else:
            chat(model).invoke(prompt)
    except openai.APIStatusError as error:
        return [error.status_code, said]
    except openai.APIError:
        return [None, said]
    return ["no failure", said]


json.dump(
    {
        "version": version("langchain-openai"),
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
