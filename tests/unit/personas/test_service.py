from __future__ import annotations

from typing import Any

import pytest

from dragoman.v1.message_pb2 import ROLE_DEVELOPER, ROLE_SYSTEM, ROLE_USER
from dragoman.v1.persona_service_pb2 import Persona
from dragoman.v1.run_pb2 import ChatSpec
from dragoman.v1.sampling_pb2 import Sampling
from dragoman.v1.tool_pb2 import FunctionTool, Tool
from dragoman_server.caller import Caller
from dragoman_server.errors import Conflict, InvalidRequest, NotFound
from dragoman_server.personas.service import Personas
from dragoman_server.settings import PersonaSettings
from dragoman_server.store.memory import MemoryStore
from tests.support.conversations import Hands, said, texts

ADMIN = Caller("default", "key_1")
STRANGER = Caller("other", "key_2")

ZOE = PersonaSettings(
    name="zoe",
    system_prompt="You are Zoe.",
    model="demo/zoe",
    sampling={"temperature": 0.1, "max_output_tokens": 100, "top_k": 3},
    tools=({"name": "look", "description": "Looks.", "parameters": {"type": "object"}}, {"name": "jump"}),
    greeting="Hi!",
)


def personas(*settings: PersonaSettings) -> Personas:
    return Personas(MemoryStore().personas, settings, Hands())


def tool(name: str, description: str = "") -> Tool:
    return Tool(function=FunctionTool(name=name, description=description))


async def test_maya_ships() -> None:
    maya = await personas().get(ADMIN, "maya")
    assert (maya.name, maya.configured, maya.etag) == ("maya", True, "")
    assert maya.system_prompt.startswith("You are Maya")
    assert maya.greeting


async def test_a_configured_one_takes_the_place_of_a_shipped_one() -> None:
    found, token = await personas(PersonaSettings(name="maya", system_prompt="Mine"), ZOE).page(ADMIN)
    assert [(one.name, one.system_prompt) for one in found] == [("maya", "Mine"), ("zoe", "You are Zoe.")]
    assert token == ""


async def test_a_stored_one_wins_in_its_account() -> None:
    service = personas(ZOE)
    saved = await service.save(ADMIN, Persona(name="zoe", system_prompt="Mine", configured=True))
    assert (saved.etag, saved.configured) == ("1", False)
    assert saved.update_time.seconds == 1_790_000_000
    assert await service.get(ADMIN, "zoe") == saved
    assert (await service.get(STRANGER, "zoe")).system_prompt == "You are Zoe."
    await service.delete(ADMIN, "zoe")
    assert (await service.get(ADMIN, "zoe")).configured
    with pytest.raises(NotFound, match="configuration"):
        await service.delete(ADMIN, "zoe")


async def test_pages_join_both_kinds() -> None:
    service = personas(ZOE)
    for name in ("a", "n", "z"):
        await service.save(ADMIN, Persona(name=name))
    names: list[str] = []
    token = ""
    while True:
        page, token = await service.page(ADMIN, 2, token)
        names += [one.name for one in page]
        if not token:
            break
    assert names == ["a", "maya", "n", "z", "zoe"]


async def test_etags() -> None:
    service = personas()
    first = await service.save(ADMIN, Persona(name="zoe"))
    second = await service.save(ADMIN, Persona(name="zoe", etag=first.etag, model="m"))
    assert second.etag == "2"
    for etag in ("1", "x", "0", "²"):
        with pytest.raises(Conflict):
            await service.save(ADMIN, Persona(name="zoe", etag=etag))
    with pytest.raises(Conflict):
        await service.save(ADMIN, Persona(name="new", etag="1"))


@pytest.mark.parametrize(
    ("persona", "field"),
    [
        (Persona(), "persona.name"),
        (Persona(name="Zoe"), "persona.name"),
        (Persona(name="z" * 65), "persona.name"),
        (Persona(name="z", display_name="x" * 129), "persona.display_name"),
        (Persona(name="z", system_prompt="é" * 32769), "persona.system_prompt"),
        (Persona(name="z", sampling=Sampling(temperature=3)), "persona.sampling.temperature"),
        (Persona(name="z", tools=[Tool()]), "persona.tools[0]"),
        (Persona(name="z", tools=[tool("a"), tool("a")]), "persona.tools[1]"),
        (
            Persona(name="z", tools=[Tool(function=FunctionTool(name="a", parameters_json="[]"))]),
            "persona.tools[0].function.parameters_json",
        ),
    ],
)
async def test_bad_personas_are_named(persona: Persona, field: str) -> None:
    with pytest.raises(InvalidRequest) as failed:
        await personas().save(ADMIN, persona)
    assert failed.value.field == field


@pytest.mark.parametrize(
    "settings",
    [
        {"sampling": {"temperature": 7}},
        {"tools": ({"name": "a b"},)},
        {"tools": ({"title": "x"},)},
        {"tools": ({"name": "a", "parameters": [1]},)},
        {"tools": ({"name": "a", "description": 3},)},
    ],
)
def test_a_bad_configuration_is_named(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="persona 'zoe'"):
        personas(PersonaSettings(name="zoe", **settings))


async def test_a_request_without_a_persona_is_left_alone() -> None:
    chat = ChatSpec(messages=[said("x")])
    assert await personas().apply(ADMIN, chat) is chat


async def test_a_persona_fills_what_is_open() -> None:
    chat = ChatSpec(messages=[said("x")], persona="zoe")
    shaped = await personas(ZOE).apply(ADMIN, chat)
    assert chat == ChatSpec(messages=[said("x")], persona="zoe")
    assert (shaped.persona, shaped.model) == ("", "demo/zoe")
    assert [message.role for message in shaped.messages] == [ROLE_SYSTEM, ROLE_USER]
    assert texts(shaped.messages) == ["You are Zoe.", "x"]
    assert shaped.sampling == Sampling(temperature=0.1, max_output_tokens=100, top_k=3)
    assert [one.function.name for one in shaped.tools] == ["look", "jump"]
    assert shaped.tools[0].function.parameters_json == '{"type": "object"}'


async def test_what_the_request_says_counts() -> None:
    chat = ChatSpec(
        messages=[said("be brief", ROLE_SYSTEM), said("x")],
        persona="zoe",
        model="demo/mine",
        sampling=Sampling(temperature=0, stop=["a"]),
        tools=[tool("jump", "mine"), tool("own")],
    )
    shaped = await personas(ZOE).apply(ADMIN, chat)
    assert shaped.model == "demo/mine"
    assert shaped.sampling == Sampling(temperature=0, max_output_tokens=100, top_k=3, stop=["a"])
    assert [(one.function.name, one.function.description) for one in shaped.tools] == [
        ("jump", "mine"),
        ("own", ""),
        ("look", "Looks."),
    ]
    assert texts(shaped.messages) == ["You are Zoe.\n\nbe brief", "x"]


async def test_lists_of_sampling_are_not_joined() -> None:
    service = personas()
    await service.save(ADMIN, Persona(name="zoe", sampling=Sampling(stop=["p"], temperature=0.5)))
    chat = ChatSpec(messages=[said("x")], persona="zoe", sampling=Sampling(stop=["r"]))
    assert (await service.apply(ADMIN, chat)).sampling == Sampling(stop=["r"], temperature=0.5)


async def test_developer_messages_stay_what_they_are() -> None:
    chat = ChatSpec(messages=[said("rules", ROLE_DEVELOPER), said("x")], persona="zoe")
    shaped = await personas(ZOE).apply(ADMIN, chat)
    assert [message.role for message in shaped.messages] == [ROLE_SYSTEM, ROLE_DEVELOPER, ROLE_USER]


@pytest.mark.parametrize("name", ["nobody", "Maya", "x\0", "'; --", "m" * 500])
async def test_an_unknown_persona_is_refused_with_the_known_ones(name: str) -> None:
    service = personas(ZOE)
    with pytest.raises(InvalidRequest, match="maya, zoe") as failed:
        await service.apply(ADMIN, ChatSpec(messages=[said("x")], persona=name))
    assert failed.value.field == "spec.chat.persona"
    with pytest.raises(NotFound):
        await service.get(ADMIN, name)


async def test_who_changed_a_persona_is_told() -> None:
    store = MemoryStore()
    service = Personas(store.personas, (), Hands())
    await service.save(ADMIN, Persona(name="zoe"))
    await service.delete(ADMIN, "zoe")
    with pytest.raises(NotFound):
        await service.delete(ADMIN, "zoe")
    told = await store.identity.audit.page(ADMIN.account_id, limit=9)
    assert [(entry.action, entry.target, entry.actor) for entry in told] == [
        ("persona.delete", "zoe", ADMIN.key_id),
        ("persona.save", "zoe", ADMIN.key_id),
    ]
