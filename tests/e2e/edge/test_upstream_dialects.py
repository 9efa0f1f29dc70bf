"""What clients of one dialect ask of servers that speak another one, and that has no word there."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from dragoman_server.settings import ModelSettings, ProviderSettings
from tests.support import upstream_gemini
from tests.support.core import running_core
from tests.support.edge import client_of, running_edge
from tests.support.upstream_gemini import STREAM, chunk
from tests.support.upstream_server import Connection, Request, UpstreamServer, chat, event, head, whole

if TYPE_CHECKING:
    import aiohttp

    from tests.support.upstream_server import Answer

CHAT = "/v1/chat/completions"
FUNCTIONS: dict[str, Any] = {"functions": [{"name": "weather", "parameters": {"type": "object"}}, {"name": "time"}]}
HELLO = {"messages": [{"role": "user", "content": "What about Oslo?"}]}
CALLS = chunk(
    {"functionCall": {"id": "a", "name": "weather", "args": {"city": "Oslo"}}},
    {"functionCall": {"id": "b", "name": "time", "args": {}}},
    finish="STOP",
    usage={"promptTokenCount": 3, "candidatesTokenCount": 2},
)


async def two_calls(request: Request, connection: Connection) -> None:
    """Answers as a model does that calls two functions at a time."""
    if STREAM in request.head.split(" ")[1]:
        await connection.write(head(200, "text/event-stream", Connection="close") + event(CALLS))
        connection.transport.close()
    else:
        await connection.write(whole(200, json.dumps(CALLS).encode()))


@asynccontextmanager
async def site(
    dialect: Any, answer: Answer, **model: Any
) -> AsyncIterator[tuple[aiohttp.ClientSession, UpstreamServer]]:
    """Yields a client, and the server that answers for the model `m`."""
    async with UpstreamServer(answer) as upstream:
        provider = ProviderSettings(name="up", dialect=dialect, base_url=upstream.url)
        known = ModelSettings(
            id="m", provider="up", upstream_model=model.pop("upstream_model", "gemini-3-pro"), **model
        )
        async with (
            running_core(providers=(provider,), models=(known,)) as core,
            running_edge(core.channel()) as edge,
            client_of(edge) as client,
        ):
            yield client, upstream


async def post(client: aiohttp.ClientSession, path: str, body: Mapping[str, Any]) -> tuple[int, Mapping[str, str], str]:
    async with client.post(path, json=body) as answer:
        return answer.status, answer.headers, await answer.text()


async def test_deprecated_functions_of_a_server_that_cannot_be_held_to_one_call() -> None:
    async with site("gemini", two_calls) as (client, upstream):
        status, headers, text = await post(client, CHAT, {"model": "m", **HELLO, **FUNCTIONS})
        assert status == 200, text
        [choice] = json.loads(text)["choices"]
        assert choice["message"]["function_call"] == {"name": "weather", "arguments": '{"city":"Oslo"}'}
        assert choice["finish_reason"] == "function_call"
        assert headers["x-dragoman-emulated"] == "functions"
        status, headers, text = await post(client, CHAT, {"model": "m", "stream": True, **HELLO, **FUNCTIONS})
        assert (status, headers["x-dragoman-emulated"]) == (200, "functions")
        assert text.endswith("data: [DONE]\n\n")
        assert '"function_call":{"name":"weather"' in text
        assert "time" not in text
        assert "error" not in text
        declared = upstream.requests[0].json["tools"][0]["functionDeclarations"]
        assert [one["name"] for one in declared] == ["weather", "time"]


async def test_the_answer_of_a_deprecated_function_goes_back() -> None:
    messages = [
        *HELLO["messages"],
        {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": '{"city":"Oslo"}'}},
        {"role": "function", "name": "weather", "content": '{"degrees":3}'},
    ]
    body = {"model": "m", "messages": messages, **FUNCTIONS, "function_call": {"name": "time"}}
    async with site("gemini", two_calls) as (client, upstream):
        status, _, text = await post(client, CHAT, body)
        assert status == 200, text
        sent = upstream.requests[0].json
    call, result = sent["contents"][1]["parts"][0]["functionCall"], sent["contents"][2]["parts"][0]["functionResponse"]
    assert (call["name"], call["id"], result["response"]) == ("weather", result["id"], {"degrees": 3})
    assert sent["toolConfig"]["functionCallingConfig"] == {"mode": "ANY", "allowedFunctionNames": ["time"]}


async def test_calls_one_at_a_time() -> None:
    tools = [{"type": "function", "function": one} for one in FUNCTIONS["functions"]]
    body = {"model": "m", **HELLO, "tools": tools, "parallel_tool_calls": False}
    async with site("gemini", two_calls) as (client, _):
        status, headers, text = await post(client, CHAT, body)
        assert (status, headers["x-dragoman-emulated"]) == (200, "parallel_tool_calls")
        calls = json.loads(text)["choices"][0]["message"]["tool_calls"]
        assert [call["function"]["name"] for call in calls] == ["weather"]


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    ("functions", "model", "param"),
    [
        ({}, {"capabilities": {"tools": False}}, "functions"),
        ({"parameters": {"type": "object", "pattern": "x"}, "strict": True}, {}, "functions[0].strict"),
        ({"parameters": [1]}, {}, "functions[0].parameters"),
    ],
)
async def test_errors_name_the_deprecated_field(
    functions: dict[str, Any], model: dict[str, Any], param: str, streams: bool
) -> None:
    body = {"model": "m", "stream": streams, **HELLO, "functions": [{"name": "weather", **functions}]}
    async with site("gemini", two_calls, **model) as (client, _):
        status, _, text = await post(client, CHAT, body)
    assert (status, json.loads(text)["error"]["param"]) == (400, param), text


@pytest.mark.parametrize(
    ("upstream_model", "config", "dropped"),
    [
        ("anything", {"thinkingBudget": 0}, "generation_config.thinking_config.thinking_budget"),
        ("anything", {"thinkingLevel": "LOW"}, None),
        ("anything", {"thinkingBudget": -1}, None),
    ],
)
async def test_no_budget_of_thoughts_for_a_server_without_budgets(
    upstream_model: str, config: dict[str, Any], dropped: str | None
) -> None:
    body = {
        "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
        "generationConfig": {"thinkingConfig": config},
    }
    async with site("openai_chat", chat(), upstream_model=upstream_model) as (client, upstream):
        status, headers, text = await post(client, "/v1beta/models/m:generateContent", body)
        assert status == 200, text
        assert headers.get("x-dragoman-dropped-params") == dropped
        assert ("reasoning_effort" in upstream.requests[0].json) is ("thinkingLevel" in config)
        body["generationConfig"] = {"thinkingConfig": {"thinkingBudget": 512}}
        status, _, text = await post(client, "/v1beta/models/m:generateContent", body)
        assert (status, "thinking_budget" in text) == (400, True)


@pytest.mark.parametrize("effort", ["none", "minimal"])
async def test_least_effort_of_a_model_that_does_not_think(effort: str) -> None:
    async with site("gemini", upstream_gemini.generate(), upstream_model="gemini-2.0-flash") as (client, upstream):
        status, headers, text = await post(client, CHAT, {"model": "m", **HELLO, "reasoning_effort": effort})
        assert status == 200, text
        assert headers.get("x-dragoman-dropped-params") in ("reasoning_effort", None)
        assert "thinkingConfig" not in upstream.requests[0].json.get("generationConfig", {})
        status, _, text = await post(client, CHAT, {"model": "m", **HELLO, "reasoning_effort": "high"})
        assert (status, json.loads(text)["error"]["param"]) == (400, "reasoning_effort")
