"""Checks a chat completion request against the dialect's rules, and names the parameter that breaks one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from dragoman_edge.dialects.openai.schemas import REQUEST, ChatCompletionRequest
from dragoman_edge.errors import EdgeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails

_validate = REQUEST.validator.validate_python

_EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "a boolean",
    "list_type": "an array",
    "dict_type": "an object",
    "model_attributes_type": "an object",
    "literal_error": "a string",
}
_GIVEN = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal number",
    list: "an array",
    dict: "an object",
}
_LONGEST_PARAM = 200
"""Characters of a path that errors show: names of members may be as long as a body."""

_BOUNDS = {
    "greater_than_equal": ("ge", "below_min_value", ">="),
    "greater_than": ("gt", "below_min_value", ">"),
    "less_than_equal": ("le", "above_max_value", "<="),
    "less_than": ("lt", "above_max_value", "<"),
}
_LENGTHS = {
    "too_short": ("array_below_min_length", "min_length", "at least", "items"),
    "too_long": ("array_above_max_length", "max_length", "at most", "items"),
    "string_too_short": ("string_below_min_length", "min_length", "at least", "characters"),
    "string_too_long": ("string_above_max_length", "max_length", "at most", "characters"),
}


def check_request(body: dict[str, Any]) -> ChatCompletionRequest:
    """Returns the request, typed.

    Raises:
        EdgeError: If it breaks a rule; `param` is the path of the parameter, for example `messages[0].content`.
    """
    try:
        request: ChatCompletionRequest = _validate(body)
    except ValidationError as error:
        raise explain(error.errors(include_url=False, include_input=False), body) from None
    if not _RULED.isdisjoint(request):
        for rule in _RULES:
            rule(request)
    return request


def invalid(param: str, message: str, code: str = "invalid_value") -> EdgeError:
    """Returns the error for a parameter that breaks a rule."""
    return EdgeError(message, param=param, code=code)


def missing(param: str, message: str = "") -> EdgeError:
    """Returns the error for a parameter that is not there."""
    return invalid(param, message or f"Missing required parameter: '{param}'.", "missing_required_parameter")


def explain(errors: list[ErrorDetails], body: dict[str, Any]) -> EdgeError:
    """Returns what is wrong with a body, of all that validation found."""
    # Of the branches of a union, the one that got furthest is the one that was meant.
    error = max(errors, key=lambda one: (len(one["loc"]), one["type"] not in _EXPECTED))
    kind, context = error["type"], error.get("ctx", {})
    param, value = _locate(error["loc"], body, append_last=kind == "missing")
    if kind == "extra_forbidden" and len(error["loc"]) == 1:
        return invalid(param, f"Unrecognized request argument supplied: {param}", "unknown_parameter")
    if kind == "extra_forbidden":
        return invalid(param, f"Unknown parameter: '{param}'.", "unknown_parameter")
    if kind == "missing":
        return missing(param)
    if kind == "union_tag_not_found":
        if not isinstance(value, dict):
            return _wrong_type(param, "an object", value)
        return missing(f"{param}.{context['discriminator'].strip(chr(39))}")
    if kind == "union_tag_invalid":
        param = f"{param}.{context['discriminator'].strip(chr(39))}"
        return invalid(
            param, f"Invalid value: {context['tag'][:100]!r}. Supported values are: {context['expected_tags']}."
        )
    if kind == "literal_error" and isinstance(value, str):
        return invalid(param, f"Invalid value: {value[:100]!r}. Supported values are: {context['expected']}.")
    if kind in _BOUNDS:
        return _out_of_bounds(param, kind, context, value)
    if kind in _LENGTHS:
        return _wrong_length(param, kind, context, value)
    if kind == "string_pattern_mismatch":
        return invalid(param, f"Invalid '{param}': it must match the pattern {context['pattern']}.")
    expected = {
        _EXPECTED[one["type"]]: None
        for one in errors
        if one["type"] in _EXPECTED and len(one["loc"]) == len(error["loc"])
    }
    if expected:
        return _wrong_type(param, " or ".join(expected), value)
    return invalid(param, f"Invalid '{param}': {error['msg']}.")


def _wrong_type(param: str, expected: str, value: Any) -> EdgeError:
    given = _GIVEN.get(type(value), "null")
    return invalid(param, f"Invalid type for '{param}': expected {expected}, but got {given} instead.", "invalid_type")


def _out_of_bounds(param: str, kind: str, context: Mapping[str, Any], value: Any) -> EdgeError:
    key, code, sign = _BOUNDS[kind]
    number = "integer" if isinstance(value, int) else "decimal"
    return invalid(
        param,
        f"Invalid '{param}': expected a value {sign} {_shown(context[key])}, but got {_shown(value)} instead.",
        f"{number}_{code}",
    )


def _shown(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


def _wrong_length(param: str, kind: str, context: Mapping[str, Any], value: Any) -> EdgeError:
    code, key, bound, unit = _LENGTHS[kind]
    if kind == "too_short" and not value:
        code = "empty_array"
    if kind == "too_long" and isinstance(value, dict):
        code, unit = "object_above_max_properties", "properties"
    return invalid(
        param, f"Invalid '{param}': expected {bound} {context[key]} {unit}, but got {len(value)} instead.", code
    )


def _locate(loc: tuple[int | str, ...], body: Any, *, append_last: bool) -> tuple[str, Any]:
    """Returns the path and value of a place in the body.

    Names of branches, which pydantic mixes in, are left out: they lead nowhere, or repeat the `type` of an object that
    has a member of this name, too. Only a missing member is named although it is not there.
    """
    path, value, branch = "", body, ""
    last = len(loc) - 1
    for index, step in enumerate(loc):
        if isinstance(step, int) and isinstance(value, list) and step < len(value):
            path, value, branch = f"{path}[{step}]", value[step], ""
        elif isinstance(step, str) and isinstance(value, dict) and step in value:
            if index < last and not branch and step == value.get("type") and path != "prediction":  # which has one type
                branch = step
            else:
                path, value, branch = f"{path}.{step}" if path else step, value[step], ""
        elif append_last and index == last:
            path, value = f"{path}.{step}" if path else str(step), None
    return path[:_LONGEST_PARAM], value


def _check_limits(request: ChatCompletionRequest) -> None:
    if request.get("max_tokens") is not None and request.get("max_completion_tokens") is not None:
        raise invalid("max_tokens", "'max_tokens' and 'max_completion_tokens' must not be used at the same time.")
    if request.get("top_logprobs") is not None and not request.get("logprobs"):
        raise invalid("top_logprobs", "'top_logprobs' is only allowed when 'logprobs' is true.")
    if request.get("stream_options") is not None and not request.get("stream"):
        raise invalid("stream_options", "'stream_options' is only allowed when 'stream' is true.")


def _check_tools(request: ChatCompletionRequest) -> None:
    if not request.get("tools"):
        for name in ("tool_choice", "parallel_tool_calls"):
            if request.get(name) is not None:
                raise invalid(name, f"'{name}' is only allowed when 'tools' are given.")
    if request.get("function_call") is not None and request.get("functions") is None:
        raise invalid("function_call", "'function_call' is only allowed when 'functions' are given.")
    if request.get("functions") is not None and request.get("tools") is not None:
        raise invalid("functions", "'functions' and 'tools' must not be used at the same time.")


def _check_audio(request: ChatCompletionRequest) -> None:
    spoken = "audio" in (request.get("modalities") or ())
    if spoken and request.get("audio") is None:
        raise missing("audio", "Missing required parameter: 'audio'; 'modalities' asks for sound.")
    if not spoken and request.get("audio") is not None:
        raise invalid("audio", "'audio' is only allowed when 'modalities' asks for sound.")


_RULES = (_check_limits, _check_tools, _check_audio)
_RULED = frozenset(
    {
        "audio",
        "function_call",
        "functions",
        "max_completion_tokens",
        "modalities",
        "parallel_tool_calls",
        "stream_options",
        "tool_choice",
        "top_logprobs",
    }
)
"""Parameters without which no rule can be broken."""
