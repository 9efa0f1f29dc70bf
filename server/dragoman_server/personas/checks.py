"""Checks personas against the bounds that the contract names."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from dragoman_server.errors import InvalidRequest
from dragoman_server.sampling import check_sampling

if TYPE_CHECKING:
    from dragoman.v1.persona_service_pb2 import Persona
    from dragoman.v1.tool_pb2 import Tool

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)
MAX_PROMPT_BYTES = 64 * 1024
MAX_TOOLS = 128
_MAX_CHARS = {"display_name": 128, "description": 2048, "model": 256, "greeting": 4096}
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}", re.ASCII)


def check_persona(persona: Persona) -> Persona:
    """Checks a persona, and returns it.

    Raises:
        InvalidRequest: If it breaks a rule; `field` names where.
    """
    if not NAME.fullmatch(persona.name):
        raise _invalid("name", "must be 1 to 64 of a-z, 0-9, _ and -, and begin with a letter or digit")
    for field, most in _MAX_CHARS.items():
        if len(getattr(persona, field)) > most:
            raise _invalid(field, f"may have at most {most} characters")
    if len(persona.system_prompt.encode()) > MAX_PROMPT_BYTES:
        raise _invalid("system_prompt", f"may have at most {MAX_PROMPT_BYTES} bytes")
    check_sampling(persona.sampling, "sampling")
    if len(persona.tools) > MAX_TOOLS:
        raise _invalid("tools", f"may be at most {MAX_TOOLS}")
    names: set[str] = set()
    for number, tool in enumerate(persona.tools):
        name = tool_name(tool)
        if not _TOOL_NAME.fullmatch(name):
            raise _invalid(f"tools[{number}]", "needs a name of 1 to 64 of a-z, A-Z, 0-9, _ and -")
        if name in names:
            raise _invalid(f"tools[{number}]", f"is `{name}` again: names must be unique")
        names.add(name)
        _check_parameters(tool.function.parameters_json, f"tools[{number}].function.parameters_json")
    return persona


def tool_name(tool: Tool) -> str:
    """Returns the name of a tool of either kind."""
    return tool.function.name or tool.custom.name


def _check_parameters(text: str, field: str) -> None:
    if not text:
        return
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _invalid(field, f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise _invalid(field, "must be a JSON object")


def _invalid(field: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"`{field}` {problem}", field=field)
