"""From the contract to the arguments of the library, which are those of a chat completion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from dragoman_server.errors import Dispensable, UnsupportedFeature
from dragoman_server.providers.abilities import sparing_field
from dragoman_server.providers.openai_chat.dialect import DIALECT
from dragoman_server.providers.vendors import Quirks

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dragoman.v1.message_pb2 import Part
    from dragoman.v1.run_pb2 import ChatSpec
    from dragoman_server.providers.base import GenerationRequest

_QUIRKS = Quirks(unsupported=frozenset({"metadata"}))
_OWN_NAMES: Mapping[str, str] = {
    **{
        name: f"sampling.{name}"
        for name in (
            *("temperature", "top_p", "frequency_penalty", "presence_penalty", "seed", "logit_bias"),
            *("logprobs", "top_logprobs", "stop"),
        )
    },
    "max_tokens": "sampling.max_output_tokens",
    "web_search_options": "web_search_options_json",
}
"""Paths in the spec of arguments that have another name there."""
_ALWAYS = frozenset({"model", "messages", "stream", "stream_options"})


def arguments_of(request: GenerationRequest, library: Any) -> dict[str, Any]:
    """Returns the arguments of a call.

    Raises:
        UnsupportedFeature: If the dialect, the library or the vendor has no word for something that is asked for.
        InvalidRequest: If JSON text within the request is not JSON.
    """
    _check(request.spec)
    arguments: dict[str, Any] = orjson.loads(DIALECT.encode(request, _QUIRKS, b"").body)
    supported = library.get_supported_openai_params(request.model)
    if supported is not None:
        known = library.OPENAI_CHAT_COMPLETION_PARAMS
        for name in arguments.keys() - _ALWAYS:
            if name in known and name not in supported:
                path = _OWN_NAMES.get(name, name)
                refusal = Dispensable if path == sparing_field(request.spec) else UnsupportedFeature
                raise refusal(f"{name} cannot be handed over to this vendor", field=path)
    return arguments


def _check(spec: ChatSpec) -> None:
    """Refuses what the library would take, and do something else with."""
    if spec.metadata:
        raise UnsupportedFeature("the library keeps metadata to itself", field="metadata")
    for at, message in enumerate(spec.messages):
        _check_parts(message.parts, f"messages[{at}].parts")


def _check_parts(parts: Iterable[Part], field: str) -> None:
    for index, part in enumerate(parts):
        match part.WhichOneof("kind"):
            case "image" if part.image.url:
                message = "images are taken inline only: for some vendors, the library would fetch them from here"
                raise UnsupportedFeature(message, field=f"{field}[{index}].image.url")
            case "tool_result":
                _check_parts(part.tool_result.parts, f"{field}[{index}].tool_result.parts")
