"""Checks requests, and names the parameter that breaks a rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from dragoman.reasons import Reason
from dragoman_edge.dialects.openai.request import explain, invalid
from dragoman_edge.dialects.soke.errors import PLATFORMS, platform_not_implemented
from dragoman_edge.dialects.soke.schemas import CHAT
from dragoman_edge.errors import EdgeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dragoman_edge.dialects.soke.schemas import ChatRequest

LEFT_OUT = frozenset(
    {
        *("temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty"),
        *("max_tokens", "max_completion_tokens", "stop", "seed", "logit_bias", "logprobs", "top_logprobs"),
        *("reasoning_effort", "verbosity", "parallel_tool_calls", "service_tier", "store", "metadata", "user"),
        *("safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"),
    }
)
"""OpenAI's parameters that the dialect does not have, and that clients send all the same: how words are picked, and
what is kept of them. Those that would change what an answer is (`n`, `tools`, ...) are refused."""

MAX_PAGE_SIZE = 100
_PAGE_SIZE = 20
_MAX_PAGE = 1_000_000


class Checked(NamedTuple):
    """A request that keeps the rules.

    Attributes:
        request: The request.
        left_out: Parameters in it that are left out.
    """

    request: ChatRequest
    left_out: tuple[str, ...]


class Page(NamedTuple):
    """Which part of a list is asked for.

    Attributes:
        start: The first item, from 0.
        size: Most items.
    """

    start: int
    size: int


def check_chat(body: dict[str, Any]) -> Checked:
    """Returns a request for an answer.

    Raises:
        EdgeError: If it breaks a rule; `param` is the path of the parameter, for example `messages[0].role`.
    """
    left_out = tuple(name for name, value in body.items() if name in LEFT_OUT and value is not None)
    ours = {name: value for name, value in body.items() if name not in LEFT_OUT}
    try:
        request: ChatRequest = CHAT.validator.validate_python(ours)
    except ValidationError as error:
        raise explain(error.errors(include_url=False, include_input=False), ours) from None
    platform = request.get("platform") or PLATFORMS[0]
    if platform.casefold() not in PLATFORMS:
        raise platform_not_implemented(platform)
    if request.get("connectionId"):
        raise EdgeError("There is no such connection.", reason=Reason.NOT_FOUND, param="connectionId")
    return Checked(request, left_out)


def check_page(query: Mapping[str, str]) -> Page:
    """Returns which part of a list the query asks for; pages are counted from 1.

    Raises:
        EdgeError: If it makes no sense.
    """
    number = _number(query, "page", 1, _MAX_PAGE)
    size = _number(query, "pageSize", _PAGE_SIZE, MAX_PAGE_SIZE)
    return Page((number - 1) * size, size)


def _number(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    given = query.get(name, str(default))
    if not (given.isascii() and given.isdigit() and len(given) <= len(str(most)) and 1 <= int(given) <= most):
        raise invalid(name, f"Invalid '{name}': it must be an integer from 1 to {most}.")
    return int(given)
