"""The Python client against a core: over gRPC and over the in-process channel, which it cannot tell apart."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest

import dragoman_client
from dragoman.reasons import Reason
from dragoman.v1.account_service_pb2 import KeyGrants, KeyRole
from dragoman.v1.event_pb2 import CancelReason, FinishReason
from dragoman.v1.message_pb2 import Message, Part, Role, TextPart
from dragoman.v1.run_pb2 import Run
from dragoman.v1.sampling_pb2 import JsonObjectFormat, ResponseFormat
from dragoman.v1.tool_pb2 import FunctionTool, Tool
from dragoman_client import (
    Conflict,
    DeadlineExceeded,
    Dragoman,
    DragomanClientError,
    Forbidden,
    InvalidRequest,
    NotFound,
    RunCancelled,
    RunFailed,
    Unauthenticated,
    Unavailable,
)
from dragoman_client._options import run_spec
from dragoman_server.app import Core
from dragoman_server.settings import (
    LimitSettings,
    LocalSettings,
    ModelSettings,
    ProviderSettings,
    ServerSettings,
    Settings,
)
from tests.support.server import KEY, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from dragoman_client import Messages

MIB = 1024 * 1024


@asynccontextmanager
async def running_core(folder: Path, **sections: Any) -> AsyncIterator[Core]:
    settings = Settings(
        server=ServerSettings(data_dir=folder, grpc_port=0),
        local=LocalSettings(enabled=False),
        providers=(ProviderSettings(name="scripted", dialect="scripted"),),
        models=(ModelSettings(id="demo", provider="scripted", upstream_model="echo"),),
        default_model="demo",
        **sections,
    )
    core = Core(settings, bootstrap_key=KEY)
    await core.start()
    try:
        await core.wait_ready()
        yield core
    finally:
        await core.stop(0)


def connect(core: Core, channel: str, key: str = KEY) -> Dragoman:
    target: Any = core.channel() if channel == "in-process" else core.grpc_address
    return Dragoman(target, key)


@pytest.fixture(params=["grpc", "in-process"])
def channel(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[Core]:
    async with running_core(tmp_path) as core:
        yield core


@pytest.fixture
async def client(core: Core, channel: str) -> AsyncIterator[Dragoman]:
    async with connect(core, channel) as client:
        yield client


def script(**directions: object) -> str:
    return f"SCRIPT {json.dumps(directions)}"


async def test_answers_a_text(client: Dragoman) -> None:
    answer = await client.chat("hello there")
    assert answer.text == "You said: hello there"
    assert answer.run.state == Run.STATE_COMPLETED
    assert answer.run.usage.output_tokens > 0
    assert answer.message.role == Role.ROLE_ASSISTANT


async def test_answers_a_conversation(client: Dragoman) -> None:
    first = await client.chat([{"role": "system", "content": "Be kind."}, {"role": "user", "content": ["one", "two"]}])
    assert first.text == "You said: one two"
    second = Message(role=Role.ROLE_USER, parts=[Part(text=TextPart(text="three"))])
    answer = await client.chat(
        [first.message, second],
        model="scripted/echo",
        temperature=0.5,
        stop="never",
        max_output_tokens=100,
        labels={"purpose": "test"},
    )
    assert answer.text == "You said: three"
    assert dict(answer.run.labels) == {"purpose": "test"}


async def test_options_reach_the_model(client: Dragoman) -> None:
    cut = await client.chat(script(text=["a ", "b ", "STOP", " c"]), stop=["STOP"])
    assert (cut.text, cut.run.choices[0].stop_sequence) == ("a b ", "STOP")
    several = await client.chat("hi", choice_count=3)
    assert [choice.index for choice in several.run.choices] == [0, 1, 2]
    wrapped = await client.chat("hi", response_format=ResponseFormat(json_object=JsonObjectFormat()))
    assert isinstance(json.loads(wrapped.text), dict)


async def test_a_tool_is_called_and_answered(client: Dragoman) -> None:
    tools = [Tool(function=FunctionTool(name="weather", parameters_json='{"type": "object"}'))]
    question = script(tool_calls=[{"name": "weather", "arguments": ['{"city":', '"Rome"}']}])
    asked = await client.chat(question, tools=tools)
    [call] = asked.tool_calls
    assert (call.name, call.arguments) == ("weather", '{"city":"Rome"}')
    assert asked.run.choices[0].finish_reason == FinishReason.FINISH_REASON_TOOL_CALLS
    result = {"role": "tool", "call_id": call.id, "content": "sunny"}
    answered = await client.chat([{"role": "user", "content": question}, asked.message, result], tools=tools)
    assert "sunny" in answered.text


async def test_streams_events_and_text(client: Dragoman) -> None:
    stream = client.stream(script(text=["a", "b", "c"]))
    events = [event async for event in stream]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[-1].WhichOneof("kind") == "run_completed"
    assert "".join(event.text_delta.text for event in events) == "abc"
    assert (await client.runs.get(stream.run_id)).last_sequence == stream.last_sequence
    assert [piece async for piece in client.stream(script(text=["x", "y"])).text()] == ["x", "y"]


async def test_text_of_one_choice(client: Dragoman) -> None:
    pieces = [piece async for piece in client.stream(script(text=["a", "b"]), choice_count=2).text(choice_index=1)]
    assert pieces == ["a", "b"]


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_failed_run_is_raised(client: Dragoman, streamed: bool) -> None:
    prompt = script(
        text=["a", "b"], fail_before={"reason": "PROVIDER_RATE_LIMITED", "message": "slow down", "retry_after": 1.5}
    )
    with pytest.raises(RunFailed) as caught:
        _ = [event async for event in client.stream(prompt)] if streamed else await client.chat(prompt)
    error = caught.value
    assert (error.reason, error.message, error.retryable) == (Reason.PROVIDER_RATE_LIMITED, "slow down", True)
    assert error.retry_after == 1.5
    assert error.code is None
    assert (await client.runs.get(error.run_id)).state == Run.STATE_FAILED


async def test_leaving_a_stream_cancels_its_run(client: Dragoman) -> None:
    async with client.stream(script(text=["a"], repeat=10_000, delay=0.01)) as stream:
        async for event in stream:
            if event.HasField("text_delta"):
                break
    run = await until_ended(client, stream.run_id)
    assert (run.state, run.cancel_reason) == (Run.STATE_CANCELLED, CancelReason.CANCEL_REASON_DISCONNECTED)


async def until_ended(client: Dragoman, run_id: str) -> Run:
    async with asyncio.timeout(20):
        while (run := await client.runs.get(run_id)).state == Run.STATE_RUNNING:
            await asyncio.sleep(0.02)  # its events are gone with its caller, so it cannot be watched
    return run


async def test_a_detached_run_is_watched_and_cancelled(client: Dragoman) -> None:
    spec = run_spec(script(text=["a", "b"], hang=True), {"labels": {"which": "this"}})
    run = await client.runs.start(spec)
    assert run.state == Run.STATE_RUNNING
    seen: list[str | None] = []
    async for event in client.runs.watch(run.id):
        seen.append(event.WhichOneof("kind"))
        if event.text_delta.text == "b":
            assert (await client.runs.cancel(run.id)).id == run.id
    assert seen[-1] == "run_cancelled"
    ended = await client.runs.get(run.id)
    assert ended.cancel_reason == CancelReason.CANCEL_REASON_REQUESTED
    assert ended.choices[0].message.parts[0].text.text == "ab"
    rest = [event.sequence async for event in client.runs.watch(run.id, after_sequence=ended.last_sequence - 1)]
    assert rest == [ended.last_sequence]
    assert [event async for event in client.runs.watch(run.id, after_sequence=ended.last_sequence)] == []
    assert run.id in [listed.id async for listed in client.runs.list()]


async def test_a_cancelled_answer_is_raised(client: Dragoman) -> None:
    asked = asyncio.create_task(client.chat(script(hang=True), labels={"which": "it"}))
    async with asyncio.timeout(20):
        while not (found := [run async for run in client.runs.list() if run.labels.get("which") == "it"]):
            await asyncio.sleep(0.02)
    await client.runs.cancel(found[0].id)
    with pytest.raises(RunCancelled) as caught:
        await asked
    assert caught.value.run_id == found[0].id


async def test_a_request_id_makes_one_run(client: Dragoman) -> None:
    first = await client.chat("hi", request_id="r1")
    again = await client.chat("hi", request_id="r1")
    assert first.run.id == again.run.id
    with pytest.raises(Conflict) as caught:
        await client.chat("something else", request_id="r1")
    assert caught.value.reason == Reason.IDEMPOTENCY_CONFLICT
    assert caught.value.field == "request_id"
    assert not caught.value.retryable


async def test_lists_all_pages(client: Dragoman) -> None:
    started = [(await client.runs.start(run_spec("hi", {}))).id for _ in range(60)]
    assert [run.id async for run in client.runs.list()] == started[::-1]


async def test_a_timeout_bounds_the_answer(client: Dragoman) -> None:
    with pytest.raises((DeadlineExceeded, RunFailed)) as caught:
        await client.chat(script(hang=True), timeout=0.2)
    assert caught.value.reason in ("", Reason.DEADLINE_EXCEEDED)


async def test_models(client: Dragoman) -> None:
    models = {model.id: model for model in await client.models()}
    assert models["demo"].is_default
    assert (await client.model()).id == "demo"
    assert (await client.model("demo")).upstream_model == "echo"
    with pytest.raises(NotFound) as caught:
        await client.model("no/such")
    assert caught.value.reason == Reason.MODEL_NOT_FOUND


async def test_conversations(client: Dragoman) -> None:
    conversations = client.conversations
    made = await conversations.create([{"role": "user", "content": "one"}], labels={"a": "b"}, request_id="r")
    assert (await conversations.create("one", labels={"a": "b"}, request_id="r")).id == made.id
    await client.chat("two", conversation_id=made.short_id, persona="maya", context=["a fact"])
    said = [stored async for stored in conversations.messages(made.id)]
    assert [part.text.text for stored in said[:2] for part in stored.message.parts] == ["one", "two"]
    fork = await conversations.fork(made.id, said[0].id, title="Fork")
    assert (fork.title, fork.message_count) == ("Fork", 1)
    appended = await conversations.append(fork.id, "else", etag=fork.etag)
    with pytest.raises(Conflict) as conflict:
        await conversations.append(fork.id, "else", etag=fork.etag)
    assert conflict.value.reason == Reason.CONFLICT
    pinned = await conversations.update(fork.id, pinned=True)
    assert [one async for one in conversations.list("ELSE", pinned=True)] == [pinned]
    copied = await conversations.import_json(await conversations.export_json(fork.id))
    assert copied.message_count == appended.conversation.message_count == 2
    await conversations.delete(fork.id)
    with pytest.raises(NotFound):
        await conversations.get(fork.id)
    assert (await conversations.undelete(fork.id)).id == fork.id
    await conversations.delete(fork.id, purge=True)
    assert len([one async for one in conversations.list()]) == 2


async def test_keys(core: Core, client: Dragoman, channel: str) -> None:
    made = await client.keys.create("laptop", expire_time=datetime.now(UTC) + timedelta(days=1))
    assert made.key.role == KeyRole.KEY_ROLE_MEMBER
    async with connect(core, channel, made.secret) as member:
        assert (await member.keys.caller()).key.id == made.key.id
        assert (await member.chat("hi")).text == "You said: hi"
        with pytest.raises(Forbidden) as forbidden:
            await member.keys.create("more")
        assert forbidden.value.reason == Reason.FORBIDDEN
        assert made.key.id in [key.id async for key in client.keys.list()]
        assert (await client.keys.revoke(made.key.id)).HasField("revoke_time")
        with pytest.raises(Unauthenticated) as revoked:
            await member.models()
        assert revoked.value.reason == Reason.API_KEY_REVOKED


async def test_accounts_users_and_logins(core: Core, client: Dragoman, channel: str) -> None:
    made = await client.accounts.create("Acme", account_id="acme")
    assert [account.id async for account in client.accounts.list()] == ["default", "acme"]
    assert (await client.accounts.update("acme", name="Acme & Co")).name == "Acme & Co"
    user = await client.users.create("a@b.test", password="correct horse", account_id=made.id)
    assert [one async for one in client.users.list(account_id="acme")] == [user]
    key = await client.keys.create("theirs", account_id="acme", grants=KeyGrants(scopes=["models.read"]))
    assert (await client.keys.update(key.key.id, name="other", account_id="acme")).name == "other"
    login = await client.users.login("a@b.test", "correct horse")
    assert login.user == user
    async with connect(core, channel, login.tokens.access_token) as theirs:
        assert (await theirs.keys.caller()).user == await theirs.users.get() == user
        assert (await theirs.chat("hi")).text == "You said: hi"
        assert (await theirs.accounts.get()).name == "Acme & Co"
        for missing in (theirs.accounts.get("default"), theirs.users.get("user_" + "0" * 32)):
            with pytest.raises(NotFound):
                await missing
        tokens = await client.users.refresh(login.tokens.refresh_token)
        await client.users.logout(tokens.refresh_token)
        with pytest.raises(Unauthenticated) as ended:
            await theirs.models()
        assert ended.value.reason == Reason.TOKEN_INVALID
    with pytest.raises(Unauthenticated):
        await client.users.login("a@b.test", "wrong password")
    exported = b"".join([piece async for piece in client.accounts.export("acme")])
    assert {json.loads(line)["table"] for line in exported.splitlines()} >= {"accounts", "users", "api_keys"}
    with pytest.raises(NotFound):
        _ = [piece async for piece in client.accounts.export("nobody")]
    await client.users.update(user.id, disabled=True, account_id="acme")
    await client.users.delete(user.id, account_id="acme")
    assert (await anext(aiter(client.accounts.audit("acme")))).action == "user.delete"
    await client.accounts.delete("acme")


@pytest.mark.parametrize(("key", "reason"), [("", Reason.API_KEY_MISSING), ("dgm_nobody", Reason.API_KEY_INVALID)])
async def test_bad_keys(core: Core, channel: str, key: str, reason: Reason) -> None:
    async with connect(core, channel, key) as client:
        with pytest.raises(Unauthenticated) as unary:
            await client.chat("hi")
        with pytest.raises(Unauthenticated) as streamed:
            _ = [event async for event in client.stream("hi")]
    for error in (unary.value, streamed.value):
        assert (error.reason, error.code) == (reason, grpc.StatusCode.UNAUTHENTICATED)
        assert str(error).startswith(f"{reason}: ")


async def test_errors_name_the_field(client: Dragoman) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await client.chat("hi", temperature=9)
    assert caught.value.field == "spec.chat.sampling.temperature"
    assert "spec.chat.sampling.temperature" in str(caught.value)
    with pytest.raises(NotFound) as missing:
        await client.runs.get("run_0")
    assert (missing.value.reason, missing.value.run_id) == (Reason.RUN_NOT_FOUND, "run_0")


async def test_large_messages_pass_up_to_the_servers_limit(tmp_path: Path, channel: str) -> None:
    limits = LimitSettings(max_request_bytes=12 * MIB)
    async with running_core(tmp_path, limits=limits) as core, connect(core, channel) as client:
        assert len((await client.chat("x" * 5 * MIB)).text) > 5 * MIB
        with pytest.raises(DragomanClientError) as caught:
            await client.chat("x" * 13 * MIB)
        assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_unreachable_server() -> None:
    async with Dragoman(f"127.0.0.1:{free_port()}") as client:
        with pytest.raises(Unavailable) as caught:
            await client.models()
        assert caught.value.retryable
        assert caught.value.reason == ""


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([{"role": "robot", "content": "hi"}], "messages[0].role: 'robot'"),
        ([{"content": "hi"}], "messages[0].role: None"),
        ([{"role": "user", "content": "hi"}, {"role": "user", "text": "hi"}], "messages[1]: unknown key 'text'"),
        ([{"role": "tool", "content": "hi"}], "messages[0].call_id: required"),
        ([{"role": "user", "content": "hi", "call_id": "c"}], "messages[0].call_id: required"),
    ],
)
def test_messages_that_say_nothing_are_refused(messages: Messages, text: str) -> None:
    with pytest.raises(ValueError, match="messages") as caught:
        run_spec(messages, {})
    assert text in str(caught.value)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(TypeError, match="unknown option: temprature"):
        run_spec("hi", {"temprature": 1})  # type: ignore[typeddict-unknown-key]


def test_every_sampling_field_is_an_option() -> None:
    from dragoman.v1.sampling_pb2 import Sampling
    from dragoman_client import ChatOptions

    assert set(Sampling.DESCRIPTOR.fields_by_name) <= set(ChatOptions.__annotations__)


async def test_credentials_belong_to_addresses() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        with pytest.raises(ValueError, match="credentials"):
            Dragoman(channel, credentials=grpc.ssl_channel_credentials())


def test_public_names_exist_and_are_documented() -> None:
    for name in dragoman_client.__all__:
        assert getattr(dragoman_client, name).__doc__, name
