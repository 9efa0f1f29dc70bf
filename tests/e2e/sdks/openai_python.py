"""Plays every scenario with the OpenAI Python SDK that this interpreter has, and prints what came of each as JSON.

Works with majors 1, 2 and 3. Run by test_openai_sdks.py; `openai_node.mjs` is its twin and prints the same.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import openai
from openai import OpenAI

if TYPE_CHECKING:
    from collections.abc import Callable

BASE_URL, KEY = sys.argv[1:3]
MODEL = "demo"
client = OpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0, timeout=60)


def ask(prompt: str, **options: Any) -> Any:
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": prompt}], **options)


def script(**directions: Any) -> str:
    return "SCRIPT " + json.dumps(directions)


def failure(call: Callable[[], object]) -> dict[str, Any]:
    """Returns what the SDK makes of a failure."""
    try:
        call()
    except openai.APIStatusError as error:
        return {"class": type(error).__name__, "status": error.status_code, "code": error.code, "param": error.param}
    except openai.APIError as error:
        return {"class": type(error).__name__, "code": error.code, "message": error.message}
    return {"class": None}


def texts(stream: Any) -> dict[str, Any]:
    """Folds a stream: text, roles and finish reasons by choice, and the usage chunk."""
    folded: dict[str, Any] = {"text": {}, "roles": {}, "finish": {}, "usage": None, "ids": set(), "models": set()}
    for chunk in stream:
        folded["ids"].add(chunk.id)
        folded["models"].add(chunk.model)
        if not chunk.choices:
            folded["usage"] = chunk.usage.total_tokens - chunk.usage.prompt_tokens - chunk.usage.completion_tokens
        elif getattr(chunk, "usage", None) is not None:
            folded["usage"] = "a chunk with choices has usage"
        for choice in chunk.choices:
            index = str(choice.index)
            folded["text"][index] = folded["text"].get(index, "") + (choice.delta.content or "")
            if choice.delta.role:
                folded["roles"].setdefault(index, []).append(choice.delta.role)
            if choice.finish_reason:
                folded["finish"].setdefault(index, []).append(choice.finish_reason)
    return folded | {"ids": len(folded["ids"]), "models": sorted(folded["models"])}


def plain() -> object:
    answer = ask("hello there")
    [choice] = answer.choices
    usage = answer.usage
    return {
        "text": choice.message.content,
        "role": choice.message.role,
        "finish": choice.finish_reason,
        "object": answer.object,
        "model": answer.model,
        "id": answer.id[:9],
        "usage_adds_up": usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > 0,
    }


def stream() -> object:
    return texts(ask("hello there", stream=True))


def stream_usage() -> object:
    return texts(ask("hello there", stream=True, stream_options={"include_usage": True}))


def choices() -> object:
    plain = ask("hi", n=2)
    return {
        "plain": {str(choice.index): choice.message.content for choice in plain.choices},
        "stream": texts(ask("hi", n=2, stream=True)),
    }


def stop() -> object:
    prompt = script(text=["one ", "two ", "three"])
    return {"plain": texts_of(ask(prompt, stop=["two"])), "stream": texts(ask(prompt, stop="two", stream=True))["text"]}


def texts_of(answer: Any) -> list[Any]:
    return [answer.choices[0].message.content, answer.choices[0].finish_reason]


def length() -> object:
    return texts_of(ask(script(text=["a", "b", "c"]), max_tokens=2))


def json_schema() -> object:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "count": {"type": "integer"}},
        "required": ["city", "count"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "places", "strict": True, "schema": schema}}
    found = json.loads(ask("where?", response_format=form).choices[0].message.content)
    return {name: type(value).__name__ for name, value in found.items()}


def tools() -> object:
    function = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
    options: Any = {"tools": [{"type": "function", "function": function}]}
    prompt = script(tool_calls=[{"name": "weather", "arguments": ['{"city":', ' "Rome"}']}])
    plain = ask(prompt, **options).choices[0]
    [call] = plain.message.tool_calls
    names, arguments, finish = [], "", None
    for chunk in ask(prompt, stream=True, **options):
        for fragment in chunk.choices[0].delta.tool_calls or []:
            names += [fragment.function.name] if fragment.function.name else []
            arguments += fragment.function.arguments or ""
        finish = chunk.choices[0].finish_reason or finish
    return {
        "plain": [call.type, call.function.name, json.loads(call.function.arguments), plain.finish_reason],
        "stream": [names, json.loads(arguments), finish],
    }


def unknown_model() -> object:
    other = client.with_options(max_retries=0)
    message: Any = {"role": "user", "content": "hi"}
    return failure(lambda: other.chat.completions.create(model="no/such", messages=[message]))


def wrong_key() -> object:
    stranger = client.with_options(api_key="dgm_nobody")
    return failure(stranger.models.list)


def wrong_parameter() -> object:
    return failure(lambda: ask("hi", temperature=9))


def rate_limited() -> object:
    prompt = script(fail_before={"reason": "PROVIDER_RATE_LIMITED", "message": "slow down"})
    return {"plain": failure(lambda: ask(prompt)), "stream": failure(lambda: list(ask(prompt, stream=True)))}


def fails_midway() -> object:
    said: list[str] = []
    prompt = script(text=["a", "b", "c"], fail_after={"after": 2, "reason": "PROVIDER_FAILED", "message": "it broke"})

    def read() -> None:
        said.extend(chunk.choices[0].delta.content or "" for chunk in ask(prompt, stream=True) if chunk.choices)

    return {"failure": failure(read), "said": "".join(said)}


def slow_start() -> object:
    return texts(ask(script(first_delay=1.5, text=["at ", "last"]), stream=True))["text"]


def slow_failure() -> object:
    prompt = script(first_delay=1.5, fail_before={"reason": "PROVIDER_FAILED", "message": "it broke"})
    return failure(lambda: list(ask(prompt, stream=True)))


def silent_middle() -> object:
    return texts(ask(script(text=["a", "b", "c"], delay=1.0), stream=True))["text"]


def many_events() -> object:
    return len(texts(ask(script(text=["0123456789"], repeat=5000, batch=100), stream=True))["text"]["0"])


def cancel() -> object:
    """Leaves a stream after its first text; the run's id tells the test where to look."""
    stream = ask(script(text=["on "], repeat=100_000, delay=0.02), stream=True)
    run_id = stream.response.headers["x-dragoman-run-id"]
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            break
    stream.close()
    return {"run": run_id}


def models() -> object:
    listed = client.models.list().data
    return {"listed": "demo" in [m.id for m in listed], "one": client.models.retrieve("demo").id}


def unicode() -> object:
    words = 'Grüß dich, 世界 🙂\u2028 "quoted" \\ end'
    return {
        "plain": ask(script(text=[words])).choices[0].message.content == words,
        "stream": texts(ask(script(text=[words]), stream=True))["text"]["0"] == words,
    }


SCENARIOS = (
    plain,
    stream,
    stream_usage,
    choices,
    stop,
    length,
    json_schema,
    tools,
    unknown_model,
    wrong_key,
    wrong_parameter,
    rate_limited,
    fails_midway,
    slow_start,
    slow_failure,
    silent_middle,
    many_events,
    cancel,
    models,
    unicode,
)

if __name__ == "__main__":
    outcomes: dict[str, object] = {"version": openai.__version__}
    for scenario in SCENARIOS:
        try:
            outcomes[scenario.__name__] = scenario()
        except Exception as error:
            outcomes[scenario.__name__] = f"{type(error).__name__}: {error}"
    sys.stdout.write(json.dumps(outcomes))
