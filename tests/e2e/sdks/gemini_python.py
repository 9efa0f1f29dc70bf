"""Plays every scenario with the Google Gen AI SDK that this interpreter has, and prints what came of each as JSON.

Run by test_gemini_sdks.py; `gemini_node.mjs` is its twin and prints the same.
"""

from __future__ import annotations

import base64
import json
import sys
from typing import TYPE_CHECKING, Any

from google import genai
from google.genai import errors, types

if TYPE_CHECKING:
    from collections.abc import Callable

BASE_URL, KEY = sys.argv[1:3]
MODEL = "demo"
PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC")


def client(key: str = KEY) -> genai.Client:
    return genai.Client(api_key=key, http_options=types.HttpOptions(base_url=BASE_URL, timeout=60_000))


sdk = client()


def script(**directions: Any) -> str:
    return "SCRIPT " + json.dumps(directions)


def failure(call: Callable[[], object]) -> dict[str, Any]:
    """Returns what the SDK makes of a failure."""
    try:
        call()
    except errors.APIError as error:
        return {"code": error.code}
    return {"code": None}


def ask(contents: Any, **config: Any) -> Any:
    return sdk.models.generate_content(model=MODEL, contents=contents, config=config)


def tell(contents: Any, **config: Any) -> Any:
    return sdk.models.generate_content_stream(model=MODEL, contents=contents, config=config)


def plain() -> object:
    answer = ask("hello there", system_instruction="Be kind.", temperature=0.5, top_k=3)
    usage = answer.usage_metadata
    return {
        "text": answer.text,
        "finish": answer.candidates[0].finish_reason.name,
        "role": answer.candidates[0].content.role,
        "model": answer.model_version,
        "id": answer.response_id[:4],
        "usage_adds_up": usage.total_token_count == usage.prompt_token_count + usage.candidates_token_count > 0,
    }


def stream() -> object:
    text, finishes, usages = "", [], 0
    for chunk in tell("hello there"):
        text += chunk.text or ""
        finishes += [candidate.finish_reason.name for candidate in chunk.candidates if candidate.finish_reason]
        usages += chunk.usage_metadata is not None
    return {"text": text, "finish": finishes, "usages": usages}


def slow_stream() -> object:
    return "".join(chunk.text or "" for chunk in tell(script(text=["a", "b", "c"], delay=0.7)))


def slow_start() -> object:
    return "".join(chunk.text or "" for chunk in tell(script(text=["late"], first_delay=1)))


def thoughts() -> object:
    prompt = script(reasoning=["hm"], text=["yes"])
    shown = ask(prompt, thinking_config={"include_thoughts": True})
    hidden = ask(prompt)
    parts = shown.candidates[0].content.parts
    return {
        "shown": [[part.text, bool(part.thought)] for part in parts],
        "text": shown.text,
        "hidden": [part.text for part in hidden.candidates[0].content.parts],
        "thoughts": shown.usage_metadata.thoughts_token_count,
    }


DECLARATION: dict[str, Any] = {
    "name": "weather",
    "description": "Tells the weather.",
    "parameters": {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}, "required": ["city"]},
}
TOOLS: list[Any] = [{"function_declarations": [DECLARATION]}]


def tools() -> object:
    prompt = script(tool_calls=[{"name": "weather", "arguments": ['{"city":', ' "Rome"}']}])
    question = {"role": "user", "parts": [{"text": prompt}]}
    first = ask([question], tools=TOOLS)
    [call] = first.function_calls
    result = {"id": call.id, "name": call.name, "response": {"sky": "blue"}}
    asked = {"role": "user", "parts": [{"function_response": result}]}
    second = ask([question, first.candidates[0].content, asked], tools=TOOLS)
    nameless = {"role": "user", "parts": [{"function_response": {"name": "weather", "response": {"sky": "grey"}}}]}
    third = ask([question, first.candidates[0].content, nameless], tools=TOOLS)
    streamed = [
        [call.name, call.args] for chunk in tell([question], tools=TOOLS) for call in chunk.function_calls or ()
    ]
    forced = ask("hi", tools=TOOLS, tool_config={"function_calling_config": {"mode": "ANY"}})
    return {
        "plain": [call.name, call.args, first.candidates[0].finish_reason.name],
        "answer": second.text,
        "without_id": third.text,
        "stream": streamed,
        "forced": [call.name for call in forced.function_calls],
    }


def chat() -> object:
    talk = sdk.chats.create(model=MODEL)
    first = talk.send_message("one").text
    second = "".join(chunk.text or "" for chunk in talk.send_message_stream("two"))
    return [first, second, [one.role for one in talk.get_history(curated=True)].count("user")]


def json_schema() -> object:
    fields = {"city": {"type": "STRING"}, "count": {"type": "INTEGER"}}
    schema = {"type": "OBJECT", "properties": fields, "required": ["city", "count"]}
    found = ask("where?", response_mime_type="application/json", response_schema=schema)
    other = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    plain = ask("where?", response_mime_type="application/json", response_json_schema=other)
    return [{name: type(value).__name__ for name, value in json.loads(one.text).items()} for one in (found, plain)]


def vision() -> object:
    parts = [{"text": "what is this?"}, {"inline_data": {"mime_type": "image/png", "data": PIXEL}}]
    linked = {"file_data": {"file_uri": "https://example.org/a.png", "mime_type": "image/png"}}
    return ask([{"role": "user", "parts": [*parts, linked]}]).text


def logprobs() -> object:
    candidate = ask("hi", response_logprobs=True, logprobs=2).candidates[0]
    chosen = candidate.logprobs_result.chosen_candidates
    return [
        [one.token for one in chosen],
        candidate.avg_logprobs,
        len(candidate.logprobs_result.top_candidates[0].candidates),
    ]


def candidates() -> object:
    return [candidate.content.parts[0].text for candidate in ask("hi", candidate_count=2).candidates]


def length() -> object:
    answer = ask(script(text=["a", "b", "c"]), max_output_tokens=2)
    return [answer.text, answer.candidates[0].finish_reason.name]


def stop() -> object:
    return ask(script(text=["one ", "two ", "three"]), stop_sequences=["two"]).text


def safety() -> object:
    setting = {"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_ONLY_HIGH"}
    filtered = ask(script(text=["a"], finish="content_filter"), safety_settings=[setting])
    blocked = ask(script(fail_before={"reason": "CONTENT_FILTERED", "message": "no"}))
    chunks = list(tell(script(fail_before={"reason": "CONTENT_FILTERED", "message": "no"})))
    return [
        filtered.candidates[0].finish_reason.name,
        blocked.prompt_feedback.block_reason.name,
        [chunk.prompt_feedback.block_reason.name for chunk in chunks],
    ]


def models() -> object:
    found = sdk.models.get(model=MODEL)
    return [MODEL in {(one.name or "").removeprefix("models/") for one in sdk.models.list()}, found.name]


def failures() -> object:
    limited = script(fail_before={"reason": "PROVIDER_RATE_LIMITED", "message": "slow down"})
    message: Any = "hi"
    stranger = client("dgm_nobody")
    return {
        "unknown_model": failure(lambda: sdk.models.generate_content(model="no/such", contents=message)),
        "wrong_key": failure(lambda: stranger.models.get(model=MODEL)),
        "wrong_value": failure(lambda: ask("hi", temperature=9)),
        "search": failure(lambda: ask("hi", tools=[{"google_search": {}}])),
        "cache": failure(lambda: ask("hi", cached_content="cachedContents/a")),
        "limited": failure(lambda: ask(limited)),
        "limited_stream": failure(lambda: list(tell(limited))),
        "count": failure(lambda: sdk.models.count_tokens(model=MODEL, contents="hi")),
    }


def fails_midway() -> object:
    said: list[str] = []
    prompt = script(text=["a", "b", "c"], fail_after={"after": 2, "reason": "PROVIDER_FAILED", "message": "it broke"})

    def read() -> None:
        said.extend(chunk.text or "" for chunk in tell(prompt))

    return {"error": failure(read), "said": said}


SCENARIOS = (
    plain,
    stream,
    slow_stream,
    slow_start,
    thoughts,
    tools,
    chat,
    json_schema,
    vision,
    logprobs,
    candidates,
    length,
    stop,
    safety,
    models,
    failures,
    fails_midway,
)

outcomes = {scenario.__name__: scenario() for scenario in SCENARIOS}
print(json.dumps(outcomes | {"version": genai.__version__}))  # noqa: T201
