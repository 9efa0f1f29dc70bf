from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dragoman.v1.event_pb2 import ReasoningDelta, RunEvent
from dragoman.v1.message_pb2 import Message, Part, ReasoningPart, Role, ToolCall
from dragoman.v1.run_pb2 import ChatSpec
from dragoman_server.providers.anthropic_messages.dialect import DIALECT as ANTHROPIC
from dragoman_server.providers.base import EventBatch, GenerationRequest
from dragoman_server.providers.gemini.dialect import DIALECT as GEMINI
from dragoman_server.providers.plugin.checks import AnswerChecker
from dragoman_server.providers.registry import make_provider
from dragoman_server.providers.remote import Dialect, RemoteProvider
from dragoman_server.providers.signatures import keep_own, mark_of, unmarked
from dragoman_server.providers.vendors import Quirks
from dragoman_server.settings import ProviderSettings
from tests.support.generation import chat
from tests.support.upstream_anthropic import block, delta, end, start, stop
from tests.support.upstream_anthropic import event as anthropic_event
from tests.support.upstream_gemini import base64_of, chunk
from tests.support.upstream_server import event

OURS, THEIRS = mark_of("ours"), mark_of("10.0.0.7:8000")


@given(st.binary(max_size=40))
def test_a_signature_comes_back_to_whoever_made_it_and_to_nobody_else(signature: bytes) -> None:
    assert unmarked(OURS + signature, OURS) == signature
    assert unmarked(OURS + signature, THEIRS) == b""
    assert unmarked(THEIRS + OURS + signature, THEIRS) == OURS + signature  # another such server is in between


def test_a_signature_without_a_mark_is_taken_as_it_is() -> None:
    for signature in (b"", b"EqoB", b"\x12\x07~a", b"~", b"~~"):
        assert unmarked(signature, OURS) == signature


def test_a_conversation_keeps_what_is_its_providers_own() -> None:
    def said(*signatures: bytes, redacted: bool = False) -> Message:
        thoughts = [Part(reasoning=ReasoningPart(signature=one, redacted=redacted)) for one in signatures]
        return Message(role=Role.ROLE_ASSISTANT, parts=thoughts)

    calls = [Part(tool_call=ToolCall(id="a", signature=OURS + b"1")), Part(tool_call=ToolCall(signature=THEIRS + b"2"))]
    spec = ChatSpec(
        messages=[
            said(OURS + b"1", THEIRS + b"2", b"3"),
            said(THEIRS + b"1", OURS + b"2", THEIRS + b"3", b"", redacted=True),
            Message(role=Role.ROLE_ASSISTANT, parts=calls),
        ]
    )
    keep_own(spec, OURS)
    calls[1].tool_call.ClearField("signature")
    assert list(spec.messages) == [
        said(b"1", b"", b"3"),
        said(b"2", redacted=True),
        Message(role=Role.ROLE_ASSISTANT, parts=[Part(tool_call=ToolCall(id="a", signature=b"1")), calls[1]]),
    ]


def thoughts_of(dialect: Dialect, mark: bytes, stream: bytes) -> list[Part]:
    """Returns the thoughts and calls of an answer as a client sends them back."""
    batch = EventBatch()
    reader = dialect.reader(GenerationRequest(chat("Hi"), "m"), mark)
    reader.read_stream(stream, batch)
    reader.end_stream(batch)
    parts: list[Part] = []
    for item in batch.events:
        if item.HasField("reasoning_delta"):
            told = item.reasoning_delta
            parts.append(Part(reasoning=ReasoningPart(text=told.text, signature=told.signature)))
        elif item.HasField("tool_call_started"):
            told_call = item.tool_call_started
            parts.append(
                Part(tool_call=ToolCall(id=told_call.call_id, name=told_call.name, signature=told_call.signature))
            )
    return parts


def written(dialect: Dialect, model: str, mark: bytes, parts: list[Part]) -> str:
    spec = chat("Hi", "", "And?")
    del spec.messages[1].parts[:]
    spec.messages[1].parts.extend(parts)
    body: Any = json.loads(dialect.encode(GenerationRequest(spec, model), Quirks(), mark).body)
    return json.dumps(body)


def test_the_providers_of_two_vendors_leave_each_others_signatures_out() -> None:
    claude, gemini = mark_of("anthropic"), mark_of("google")
    payloads = [
        start(),
        block(0, type="thinking", thinking="Hm", signature=""),
        delta(0, "signature", signature="EqoB"),
    ]
    stream = b"".join(map(anthropic_event, [*payloads, stop(0), *end("end_turn")]))
    thoughts = thoughts_of(ANTHROPIC, claude, stream)
    assert '"signature": "EqoB"' in written(ANTHROPIC, "claude-haiku-4-5", claude, thoughts)
    assert "ignature" not in written(ANTHROPIC, "claude-haiku-4-5", mark_of("deepseek"), thoughts)
    assert "ignature" not in written(GEMINI, "gemini-2.5-flash", gemini, thoughts)

    proof = base64_of(b"EqoB")  # what the other API would take for one of its own
    call = chunk({"functionCall": {"name": "f"}, "thoughtSignature": proof}, finish="STOP")
    calls = thoughts_of(
        GEMINI, gemini, event(chunk({"text": "Hm", "thought": True, "thoughtSignature": proof})) + event(call)
    )
    again = written(GEMINI, "gemini-2.5-flash", gemini, calls)
    assert again.count(f'"thoughtSignature": "{proof}"') == 2
    assert "ignature" not in written(ANTHROPIC, "claude-haiku-4-5", claude, calls)


def test_the_signatures_of_a_plugin_are_marked() -> None:
    told = RunEvent(reasoning_delta=ReasoningDelta(text="Hm", signature=b"1"))
    call = RunEvent()
    call.tool_call_started.call_id = call.tool_call_started.name = "f"
    call.tool_call_started.signature = b"2"
    (batch,) = AnswerChecker(0, OURS).batches([told, call])
    assert batch.events[0].reasoning_delta == ReasoningDelta(text="Hm", signature=OURS + b"1")
    assert batch.events[1].tool_call_started.signature == OURS + b"2"
    assert not batch.events[1].HasField("reasoning_delta")


async def test_the_mark_is_the_vendor_or_the_provider_where_none_is_known() -> None:
    marks = {}
    for name, settings in {
        "by name": {"vendor": "anthropic", "base_url": "https://gateway.example.com/anthropic"},
        "by host": {"dialect": "anthropic_messages", "base_url": "https://api.anthropic.com"},
        "unknown": {"dialect": "anthropic_messages", "base_url": "http://10.0.0.7:8000"},
    }.items():
        provider = make_provider(ProviderSettings.model_validate({"name": "mine", **settings}))
        assert isinstance(provider, RemoteProvider)
        marks[name] = provider.mark
        await provider.close()
    assert marks == {"by name": b"~anthropic~", "by host": b"~anthropic~", "unknown": b"~mine~"}
