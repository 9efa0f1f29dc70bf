"""The matrix: what is asked of every pair of dialects, and what a backend or a client cannot do. One source for the
tests and for docs/dialects.md."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tests.e2e.matrix.words import Ask, Call, Result, Said, Tokens, Tool, Turn, png

BACKENDS = {
    "openai_chat": "`openai_chat`",
    "anthropic_messages": "`anthropic_messages`",
    "gemini": "`gemini`",
    "plugin": "plugin",
    "scripted": "scripted",
    "local": "embedded",
}
CLIENTS = {"openai": "OpenAI chat", "gemini": "Gemini", "grpc": "gRPC"}


@dataclass(frozen=True)
class Feature:
    """Something that works alike whatever the pair.

    Attributes:
        title: What it is, for people.
        ask: What is asked.
        said: What the model says; what the client reads is the same.
    """

    title: str
    ask: Ask
    said: Said


@dataclass(frozen=True)
class Refused:
    """The backend cannot do it: a request is refused with UNSUPPORTED_FEATURE, naming a field of the contract."""

    field: str


@dataclass(frozen=True)
class Emulated:
    """The backend cannot do it, and the server stands in: the answer names the path in the contract."""

    path: str


@dataclass(frozen=True)
class Absent:
    """There is nothing to ask for: the backend never does it, or the client's dialect has no word for it."""

    why: str


Limit = Refused | Emulated | Absent


def _user(text: str, **more: Any) -> Turn:
    return Turn("user", text, **more)


_HELLO = Ask((_user("hello"),))
_HI = Said(("Hel", "lo ", "wörld \u2028\n", '"you"'))
_PLACE = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
_WEATHER = Tool("weather", "Tells the weather.", _PLACE)
_TIME = Tool("time", "Tells the time.", {"type": "object", "properties": {}})
_CALLS = (
    Call("call_1", "weather", ('{"city"', ': "Øs', 'lo"}')),
    Call("call_2", "weather", ('{"city": "Rome"}',)),
)
_ANSWERS = (Result("call_1", "weather", '{"degrees":4}'), Result("call_2", "weather", '{"degrees":19}'))
_ROUND_TRIP = (
    _user("How warm is it in Oslo and in Rome?"),
    Turn("assistant", calls=_CALLS),
    Turn("tool", results=_ANSWERS),
)
_TOLD = Said(("The", " tools", " said:", ' {"degrees":19}'), tokens=Tokens(11, 4))
_SCHEMA = {**_PLACE, "additionalProperties": False}
_JSON = Said(('{"city"', ":", '"Rome"}'))
_SIGNED_THOUGHT = Turn("assistant", "It is mild.", thoughts="Rome is warm.", signature=b"cHJvb2Y=")
_SIGNED_CALL = replace(_CALLS[0], signature=b"proof of the call")

FEATURES = {
    "text": Feature("text", _HELLO, _HI),
    "instructions": Feature(
        "system and developer messages", replace(_HELLO, system="Be brief.", developer="Use metric units."), _HI
    ),
    "conversation": Feature(
        "several turns", Ask((_user("one"), Turn("assistant", "two"), _user("three"))), Said(("fo", "ur"))
    ),
    "tools": Feature(
        "tools: parallel calls, streamed arguments",
        replace(_HELLO, tools=(_WEATHER, _TIME)),
        Said(("Let me see.",), calls=_CALLS, finish="tool_calls"),
    ),
    "tool_choice": Feature(
        "a tool that must be called",
        replace(_HELLO, tools=(_WEATHER, _TIME), tool_choice="weather"),
        Said(calls=_CALLS[:1], finish="tool_calls"),
    ),
    "tool_results": Feature("tool results sent back", Ask(_ROUND_TRIP, tools=(_WEATHER,)), _TOLD),
    "thoughts": Feature(
        "thoughts shown", replace(_HELLO, thoughts=True), Said(("Do", "ne."), thoughts=("Let me ", "think."))
    ),
    "signed_thoughts": Feature(
        "signed thoughts, both ways",
        Ask((_user("How warm is Rome?"), _SIGNED_THOUGHT, _user("And Oslo?")), thoughts=True),
        Said(("Cold.",), thoughts=("Oslo is ", "north."), signature=b"c2lnbmF0dXJl"),
    ),
    "signed_calls": Feature(
        "signed tool calls, both ways",
        Ask(
            (_ROUND_TRIP[0], Turn("assistant", calls=(_SIGNED_CALL,)), Turn("tool", results=_ANSWERS[:1])),
            tools=(_WEATHER,),
        ),
        Said(calls=(replace(_CALLS[1], signature=b"another proof"),), finish="tool_calls"),
    ),
    "vision": Feature(
        "inline images", Ask((_user("What is this?", images=(png(255), png(1))),)), Said(("Two ", "dots."))
    ),
    "json_schema": Feature("answers by a JSON Schema", replace(_HELLO, schema=_SCHEMA), _JSON),
    "json_object": Feature("JSON mode", replace(_HELLO, schema={}), _JSON),
    "stop": Feature("stop texts", replace(_HELLO, stop=("END", "FIN")), Said(("one ",))),
    "length": Feature(
        "a limit of tokens", replace(_HELLO, max_tokens=2), Said(("a ", "b "), finish="length", tokens=Tokens(11, 2))
    ),
    "filter": Feature("answers cut by a filter", _HELLO, Said(("I ", "would"), finish="content_filter")),
    "temperature": Feature("temperature", replace(_HELLO, temperature=0.25), _HI),
    "seed": Feature("seed", replace(_HELLO, seed=7), _HI),
    "logprobs": Feature("log probabilities", replace(_HELLO, logprobs=True), replace(_HI, logprobs=True)),
    "usage": Feature(
        "usage: cached and thought tokens",
        _HELLO,
        Said(("Do", "ne."), tokens=Tokens(1000, 50, cached=900, thoughts=40)),
    ),
}

_NO_THOUGHTS = Absent("the model has no thoughts")
LIMITS: dict[tuple[str, str], Limit] = {
    ("json_object", "anthropic_messages"): Emulated("response_format.json_object"),
    ("seed", "anthropic_messages"): Refused("sampling.seed"),
    ("logprobs", "anthropic_messages"): Refused("sampling.logprobs"),
    ("signed_calls", "anthropic_messages"): Absent("it signs thoughts, not calls"),
    ("signed_thoughts", "openai_chat"): Absent("the dialect signs calls, not thoughts"),
    ("signed_thoughts", "scripted"): Absent("a script has no signatures"),
    ("signed_calls", "scripted"): Absent("a script has no signatures"),
    ("usage", "scripted"): Absent("nothing is cached"),
    ("tools", "local"): Refused("tools"),
    ("tool_choice", "local"): Refused("tools"),
    ("tool_results", "local"): Refused("tools"),
    ("signed_calls", "local"): Refused("tools"),
    ("vision", "local"): Refused("messages[0].parts[1].image"),
    ("thoughts", "local"): _NO_THOUGHTS,
    ("signed_thoughts", "local"): _NO_THOUGHTS,
    ("filter", "local"): Absent("nothing is filtered"),
    ("usage", "local"): Absent("nothing is cached, nothing is thought"),
}
"""What a backend cannot do, by feature and backend."""

CLIENT_LIMITS: dict[tuple[str, str], Absent] = {
    ("signed_thoughts", "openai"): Absent("its thoughts have no signatures: they are not shown, and cannot come back"),
}
"""What a client cannot ask for, by feature and client."""

TROUBLES = {
    "400": ("the server refuses the request", "PROVIDER_REJECTED"),
    "401": ("the server refuses its key", "PROVIDER_AUTH"),
    "429": ("the server's rate is used up", "PROVIDER_RATE_LIMITED"),
    "500": ("the server fails", "PROVIDER_FAILED"),
    "error frame": ("the server fails within a stream", "PROVIDER_FAILED"),
    "cut": ("a stream breaks off", "PROVIDER_PROTOCOL"),
}
"""What goes wrong on the other side: in words, and the reason that every client gets."""
