"""The personas that come with the server and from its configuration."""

from __future__ import annotations

import json
import tomllib
from importlib import resources
from typing import TYPE_CHECKING

from dragoman.v1.persona_service_pb2 import Persona
from dragoman_server.errors import InvalidRequest
from dragoman_server.personas.checks import check_persona
from dragoman_server.settings import PersonaSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_WHOLE_NUMBERS = frozenset({"top_k", "max_output_tokens"})


def configured_personas(settings: Iterable[PersonaSettings]) -> dict[str, Persona]:
    """Returns the personas that everybody may name, by name.

    Args:
        settings: Those of the configuration; they take the place of shipped ones.

    Raises:
        InvalidRequest: If one of them makes no sense.
    """
    personas: dict[str, Persona] = {}
    for one in (*_shipped(), *settings):
        try:
            personas[one.name] = check_persona(_persona(one))
        except InvalidRequest as error:
            raise InvalidRequest(f"persona {one.name!r}: {error.message}", field=f"personas.{error.field}") from error
    return personas


def _shipped() -> list[PersonaSettings]:
    text = resources.files(__package__).joinpath("shipped.toml").read_text(encoding="utf-8")
    return [PersonaSettings.model_validate(one) for one in tomllib.loads(text)["personas"]]


def _persona(settings: PersonaSettings) -> Persona:
    persona = Persona(
        name=settings.name,
        display_name=settings.display_name,
        description=settings.description,
        system_prompt=settings.system_prompt,
        model=settings.model,
        greeting=settings.greeting,
        configured=True,
    )
    for name, value in settings.sampling.items():
        setattr(persona.sampling, name, round(value) if name in _WHOLE_NUMBERS else value)
    for number, tool in enumerate(settings.tools):
        _add_tool(persona, tool, f"tools[{number}]")
    return persona


def _add_tool(persona: Persona, tool: Mapping[str, object], field: str) -> None:
    if unknown := sorted(tool.keys() - {"name", "description", "parameters"}):
        raise InvalidRequest(f"`{field}` has no member {unknown[0]!r}", field=field)
    name, description = tool.get("name"), tool.get("description", "")
    if not isinstance(name, str) or not isinstance(description, str):
        raise InvalidRequest(f"`{field}` needs a name, and a description that is a text if it has one", field=field)
    function = persona.tools.add().function
    function.name = name
    function.description = description
    if "parameters" in tool:
        function.parameters_json = json.dumps(tool["parameters"])
