"""What the check reads of a plain conversation is all that it says: written from that, the request is the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from dragoman.v1.message_pb2 import Message, Role, TextPart
from dragoman.v1.run_pb2 import ChatSpec, RunSpec, TaskProfile
from dragoman_server.errors import InvalidRequest
from dragoman_server.providers.base import GenerationRequest, PlainChat
from dragoman_server.providers.openai_chat.request import encode_request
from dragoman_server.providers.vendors import Quirks
from dragoman_server.runs import plain, validation
from dragoman_server.runs.plain import read_plain
from dragoman_server.runs.usage import plain_prompt_tokens, prompt_tokens
from dragoman_server.runs.validation import MOST_REMEMBERED, check_request
from dragoman_server.sampling import RANGES

if TYPE_CHECKING:
    from collections.abc import Callable

ROLES = st.sampled_from([Role.ROLE_SYSTEM, Role.ROLE_DEVELOPER, Role.ROLE_USER, Role.ROLE_ASSISTANT])


@st.composite
def samplings(draw: st.DrawFn) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in draw(st.sets(st.sampled_from(sorted(RANGES)))):
        low, high = RANGES[name]
        whole = name in ("top_k", "max_output_tokens", "top_logprobs", "choice_count")
        values[name] = draw(st.integers(int(low), int(high)) if whole else st.floats(low, high))
    if draw(st.booleans()) or "top_logprobs" in values:
        values["logprobs"] = True
    if draw(st.booleans()):
        values["seed"] = draw(st.integers(-(2**63), 2**63 - 1))
    if draw(st.booleans()):
        values["stop"] = draw(st.lists(st.text(min_size=1), max_size=3))
    if draw(st.booleans()):
        values["logit_bias"] = draw(st.dictionaries(st.integers(0, 9), st.floats(-100, 100), max_size=2))
    return values


@st.composite
def plain_specs(draw: st.DrawFn) -> RunSpec:
    spec = RunSpec()
    spec.chat.model = draw(st.sampled_from(["", "m", "p/m"]))
    for role, text in draw(st.lists(st.tuples(ROLES, st.text(min_size=1)), min_size=1, max_size=5)):
        message = spec.chat.messages.add(role=role)
        message.parts.add().text.text = text
    if draw(st.booleans()):
        spec.chat.sampling.SetInParent()
        for name, value in draw(samplings()).items():
            field = getattr(spec.chat.sampling, name)
            if isinstance(value, dict):
                field.update(value)
            elif isinstance(value, list):
                field.extend(value)
            else:
                setattr(spec.chat.sampling, name, value)
    return spec


QUIRKS = st.builds(
    Quirks,
    max_tokens_field=st.sampled_from(["max_tokens", "max_completion_tokens"]),
    seed_field=st.sampled_from(["seed", "random_seed"]),
    developer_role=st.booleans(),
    thoughts_field=st.sampled_from(["reasoning_content", "reasoning", ""]),
    stream_usage=st.booleans(),
    obfuscates=st.booleans(),
)


def plain_of(spec: RunSpec) -> PlainChat | None:
    """What is read field by field."""
    return check_request(spec, "").chat


def said(plain: PlainChat | None) -> Any:
    """What can be compared of it."""
    if plain is None:
        return None
    sampling = [(field.name, str(value) if field.is_repeated else value) for field, value in plain.sampling]
    return plain.model, list(plain.messages), sampling


@given(plain_specs())
def test_read_from_the_wire_form_it_is_the_same(spec: RunSpec) -> None:
    for _ in range(2):  # the second time, its heads and its sampling values are known
        read = read_plain(spec)
        assert read is not None
        assert read.spec is spec.chat
        assert said(read) == said(plain_of(spec))
        assert_counts_the_same(spec, read)


def assert_counts_the_same(spec: RunSpec, read: PlainChat | None) -> None:
    assert read is not None
    other = plain_of(spec)
    assert other is not None
    assert read.message_bytes == sum(message.ByteSize() for message in spec.chat.messages)
    assert plain_prompt_tokens(read) == plain_prompt_tokens(other) == prompt_tokens(spec.chat)


LENGTHS = (1, 2, 110, *range(115, 145), 200, 255, 256, 300, 5000, *range(16_350, 16_400))


@pytest.mark.parametrize("length", LENGTHS)
def test_texts_of_all_lengths_are_read_from_the_wire_form(length: int) -> None:
    spec = a_spec()
    for text in ("x" * length, "ü" * (length // 2 or 1)):
        spec.chat.messages[0].parts[0].text.text = text
        for _ in range(2):
            read = read_plain(spec)
            assert said(read) == ("m", [(Role.ROLE_SYSTEM, text), (Role.ROLE_USER, "hi")], [])
            if spec.ByteSize() <= plain.MOST_BYTES:
                assert_counts_the_same(spec, read)
    spec.chat.model = "m" * length
    assert said(read_plain(spec)) == said(plain_of(spec))


def test_what_was_remembered_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "_heads", {})
    monkeypatch.setattr(plain, "_samplings", {})
    monkeypatch.setattr(plain, "_MOST_HEADS", 3)
    monkeypatch.setattr(plain, "_MOST_SAMPLINGS", 3)
    for number in range(1, 20):
        spec = a_spec()
        spec.chat.messages[1].parts[0].text.text = "x" * number
        spec.chat.sampling.max_output_tokens = number
        assert said(read_plain(spec)) == said(plain_of(spec))
        assert len(plain._heads) <= 3
        assert len(plain._samplings) <= 3


def test_a_small_request_is_read_from_its_wire_form_and_a_large_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, small = a_spec(), check_request(a_spec(), "", size=100)
    assert said(small.chat) == said(plain_of(spec))
    assert (small.bare, small.has_media) == (True, False)
    monkeypatch.setattr(validation, "read_plain", None)  # whoever calls it fails
    assert said(check_request(spec, "", size=plain.MOST_BYTES + 1).chat) == said(plain_of(spec))
    assert said(check_request(spec, "").chat) == said(plain_of(spec))


@given(plain_specs(), QUIRKS, st.booleans())
def test_written_from_what_was_read_it_is_the_same(spec: RunSpec, quirks: Quirks, incremental: bool) -> None:
    request = GenerationRequest(spec.chat, "up", 0, incremental)
    expected = encode_request(request, quirks, b"")
    for read in (plain_of(spec), read_plain(spec)):
        assert read is not None
        assert read.spec is spec.chat
        assert read.model == spec.chat.model
        assert encode_request(request._replace(plain=read), quirks, b"") == expected


@given(plain_specs(), plain_specs())
def test_of_another_request_it_says_nothing(spec: RunSpec, other: RunSpec) -> None:
    request = GenerationRequest(other.chat, "up")
    assert encode_request(request._replace(plain=plain_of(spec)), Quirks(), b"") == encode_request(
        request, Quirks(), b""
    )


def a_spec() -> RunSpec:
    spec = RunSpec()
    spec.chat.model = "m"
    spec.chat.messages.add(role=Role.ROLE_SYSTEM).parts.add().text.text = "be kind"
    spec.chat.messages.add(role=Role.ROLE_USER).parts.add().text.text = "hi"
    return spec


def last(spec: RunSpec) -> Message:
    return spec.chat.messages[-1]


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: setattr(last(spec), "name", "ada"),
        lambda spec: last(spec).parts[0].cache_breakpoint.SetInParent(),
        lambda spec: setattr(last(spec).parts[0].text, "text", ""),
        lambda spec: setattr(last(spec).parts.add().text, "text", "more"),
        lambda spec: setattr(last(spec).parts[0].image, "url", "http://x/y.png"),
        lambda spec: last(spec).ClearField("parts"),
        lambda spec: setattr(last(spec).parts[0].text, "text", "x" * MOST_REMEMBERED),
        lambda spec: setattr(spec.chat, "user", "u"),
        lambda spec: setattr(spec.chat, "persona", "p"),
        lambda spec: setattr(spec.chat, "conversation_id", "c"),
        lambda spec: spec.chat.context.append("c"),
        lambda spec: setattr(spec.chat, "task_profile", TaskProfile.TASK_PROFILE_CODING),
        lambda spec: setattr(spec.chat.upstream, "base_url", "http://x"),
        lambda spec: setattr(spec.chat.tools.add().function, "name", "f"),
    ],
)
def test_what_says_more_is_not_plain(change: Any) -> None:
    spec = a_spec()
    assert plain_of(spec) is not None
    assert read_plain(spec) is not None
    change(spec)
    assert plain_of(spec) is None
    assert said(read_plain(spec)) in (None, said(plain_of(spec))) or len(spec.SerializeToString()) > plain.MOST_BYTES


def test_no_field_is_overlooked() -> None:
    known = {"model", "messages", "sampling"}
    for field in ChatSpec.DESCRIPTOR.fields:
        spec = a_spec()
        if field.name in known or field.message_type is not None or field.enum_type is not None:
            continue
        value = getattr(spec.chat, field.name)
        if hasattr(value, "append"):
            value.append("x")
        else:
            setattr(spec.chat, field.name, type(value)(True) if not isinstance(value, str) else "{}")
        assert plain_of(spec) is None, field.name
        assert read_plain(spec) is None, field.name


def test_a_spec_that_says_more_is_not_read_from_its_wire_form() -> None:
    for change in (
        lambda spec: spec.labels.update(a="b"),
        lambda spec: spec.timeout.FromSeconds(3),
        lambda spec: spec.ClearField("chat"),
        lambda spec: spec.chat.Clear(),
        lambda spec: spec.chat.ClearField("messages"),
        lambda spec: spec.chat.messages.add(),
        lambda spec: spec.chat.messages.add(role=Role.ROLE_USER).parts.add(),
        lambda spec: spec.chat.messages.add(role=Role.ROLE_USER).parts.add().text.SetInParent(),
        lambda spec: spec.chat.messages.add(role=Role.ROLE_TOOL).parts.add().text.MergeFrom(TextPart(text="x")),
        lambda spec: spec.chat.messages.add(role=77).parts.add().text.MergeFrom(TextPart(text="x")),
        lambda spec: spec.chat.messages.add(role=200).parts.add().text.MergeFrom(TextPart(text="x")),
    ):
        spec = a_spec()
        change(spec)  # type: ignore[no-untyped-call]  # lambdas have no annotations
        assert read_plain(spec) is None


@given(st.data())
def test_bytes_that_are_changed_never_say_something_else(data: st.DataObject) -> None:
    wire = bytearray(data.draw(plain_specs()).SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    try:
        spec = RunSpec.FromString(bytes(wire))
    except DecodeError:
        return
    assert outcome(lambda: said(read_plain(spec))) in (None, outcome(lambda: said(plain_of(spec))))


def outcome(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except InvalidRequest as error:
        return error.message


def test_the_rules_hold_for_plain_ones_too() -> None:
    spec = a_spec()
    spec.chat.sampling.temperature = 3
    with pytest.raises(InvalidRequest) as refused:
        check_request(spec, "")
    assert refused.value.field == "spec.chat.sampling.temperature"
    spec.chat.sampling.Clear()
    spec.chat.sampling.top_logprobs = 2
    with pytest.raises(InvalidRequest) as refused:
        check_request(spec, "")
    assert refused.value.field == "spec.chat.sampling.top_logprobs"
    spec.chat.sampling.logprobs = True
    check_request(spec, "")
    spec.chat.messages[0].role = Role.ROLE_UNSPECIFIED
    with pytest.raises(InvalidRequest) as refused:
        check_request(spec, "")
    assert refused.value.field == "spec.chat.messages[0].role"
