"""An answer that comes all at once is taken like one that comes in pieces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.reasons import Reason
from dragoman_server.providers import remote
from dragoman_server.providers.anthropic_messages.dialect import DIALECT as ANTHROPIC
from dragoman_server.providers.base import GenerationRequest
from dragoman_server.providers.gemini.dialect import DIALECT as GEMINI
from dragoman_server.providers.openai_chat.dialect import DIALECT as OPENAI
from dragoman_server.providers.remote import Dialect, RemoteProvider
from dragoman_server.providers.upstream.client import Client
from dragoman_server.providers.vendors import Vendor
from dragoman_server.settings import ProviderSettings
from tests.support.generation import Recording, chat

PLAIN = {
    "choices": [{"message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 200},
}
ANSWERS: list[Any] = [
    PLAIN,
    {**PLAIN, "usage": None},
    {"choices": [{"message": {"content": "cut off"}, "finish_reason": None}]},
    {"choices": [{"message": {"content": "", "refusal": "no"}, "finish_reason": "stop"}]},
    {"choices": []},
    {"choices": [{"message": {"content": "a", "tool_calls": 7}, "finish_reason": "stop"}]},
    {"choices": [{"message": {"audio": {"expires_at": 2**62}}, "finish_reason": "stop"}]},
    {"error": {"message": "too bad"}},
    {"error": {"message": "too bad", "code": "9" * 5000}},
    [PLAIN],
    {"type": "message", "content": [{"type": "text", "text": "hello"}], "stop_reason": "end_turn"},
    {"candidates": [{"content": {"parts": [{"text": "hello"}]}, "finishReason": "STOP"}]},
]
BODIES = [*map(orjson.dumps, ANSWERS), b"", b"{", b'data: {"choices": []}\n\ndata: [DONE]\n\n']
KINDS = [
    b"application/json",
    b"application/json; charset=utf-8",
    b"Application/JSON",
    b"text/event-stream",
    b"text/plain",
    b"",
]


class _Exchange:
    moved = False

    def abort(self) -> None: ...

    def resume(self) -> None: ...


class _Client:
    """Sends nothing: the test plays the answer."""

    def send(self, request: bytes, handler: Any) -> _Exchange:
        self.handler = handler
        return _Exchange()


def played(dialect: Dialect, request: GenerationRequest, *calls: tuple[Any, ...]) -> Recording:
    """Returns what a sink got of an answer: the calls of the handler, by name."""
    client = _Client()
    settings = ProviderSettings(name="p", base_url="http://127.0.0.1:1/v1")
    provider = RemoteProvider(settings, dialect, Vendor("v", "V", dialect.name), client=cast("Client", client))
    recording = Recording()
    provider.start(request, recording)
    recording.starting = False
    for name, *arguments in calls:
        getattr(client.handler, name)(*arguments)
    assert recording.violations == []
    assert len(recording.ends) == 1
    assert not provider.running
    return recording


@given(
    dialect=st.sampled_from([OPENAI, OPENAI, ANTHROPIC, GEMINI]),
    body=st.sampled_from(BODIES),
    status=st.sampled_from([200, 200, 200, 204, 429, 500]),
    kind=st.sampled_from(KINDS),
    encoding=st.sampled_from([None, None, b"identity", b"gzip"]),
    choice_index=st.sampled_from([0, 0, 1]),
    incremental=st.sampled_from([False, False, True]),
    cut=st.integers(0, 200),
)
async def test_at_once_or_in_pieces(
    dialect: Dialect,
    body: bytes,
    status: int,
    kind: bytes,
    encoding: bytes | None,
    choice_index: int,
    incremental: bool,
    cut: int,
) -> None:
    headers: Mapping[bytes, bytes] = {
        name: value for name, value in ((b"content-type", kind), (b"content-encoding", encoding)) if value is not None
    }
    request = GenerationRequest(chat("Hi"), "m", choice_index, incremental=incremental)
    pieces = [("on_data", piece) for piece in (body[:cut], body[cut:]) if piece]
    at_once = played(dialect, request, ("on_whole", status, headers, body))
    expected = played(dialect, request, ("on_headers", status, headers), *pieces, ("on_complete",))
    assert at_once.ends == expected.ends
    if kind != b"text/event-stream" and (not incremental or b"json" in kind.lower()):
        assert at_once.batches == expected.batches
        assert at_once.whole == expected.whole


def test_plain_answers_take_the_short_way() -> None:
    request = GenerationRequest(chat("Hi"), "m", incremental=False)
    json = {b"content-type": b"application/json"}
    recording = played(OPENAI, request, ("on_whole", 200, json, orjson.dumps(PLAIN)))
    assert recording.whole
    assert recording.text == "hello"
    assert recording.usage is not None
    assert recording.usage.output_tokens == 200
    recording = played(OPENAI, request._replace(incremental=True), ("on_whole", 200, json, orjson.dumps(PLAIN)))
    assert not recording.whole
    assert recording.text == "hello"


@pytest.mark.parametrize("odd", [{"tool_calls": 7}, {"audio": {"expires_at": 2**62}}])
@pytest.mark.parametrize("incremental", [False, True])
def test_an_answer_that_no_reader_expects_ends_the_generation(odd: dict[str, Any], incremental: bool) -> None:
    choice = {"delta": odd, "message": odd, "finish_reason": "stop"}
    body = orjson.dumps({"choices": [choice]})
    headers = {b"content-type": b"text/event-stream" if incremental else b"application/json"}
    sent = b"data: %b\n\n" % body if incremental else body
    request = GenerationRequest(chat("Hi"), "m", incremental=incremental)
    recording = played(OPENAI, request, ("on_headers", 200, headers), ("on_data", sent), ("on_complete",))
    assert not recording.batches
    (failure,) = recording.ends
    assert failure is not None
    assert failure.reason == Reason.PROVIDER_PROTOCOL


def test_what_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    body = orjson.dumps(PLAIN)
    monkeypatch.setattr(remote, "MAX_WHOLE_BYTES", len(body) - 1)
    request = GenerationRequest(chat("Hi"), "m", incremental=False)
    json = {b"content-type": b"application/json"}
    for calls in (
        [("on_whole", 200, json, body)],
        [("on_headers", 200, json), ("on_data", body[:9]), ("on_data", body[9:]), ("on_complete",)],
    ):
        recording = played(OPENAI, request, *calls)
        assert not recording.batches
        assert recording.ends[0] is not None
        assert "too large" in recording.ends[0].message
