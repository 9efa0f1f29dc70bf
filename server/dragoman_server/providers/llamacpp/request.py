"""From a chat to the body that llama.cpp's chat endpoint reads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from dragoman.v1.message_pb2 import Role
from dragoman.v1.sampling_pb2 import Modality, ReasoningEffort, Verbosity
from dragoman.v1.tool_pb2 import GrammarSyntax, ToolMode
from dragoman_server.errors import InvalidRequest, UnsupportedFeature
from dragoman_server.providers.abilities import sparing_field
from dragoman_server.providers.llamacpp.json_schema import enforceable

if TYPE_CHECKING:
    from collections.abc import Callable

    from dragoman.v1.message_pb2 import Message
    from dragoman.v1.run_pb2 import ChatSpec
    from dragoman.v1.sampling_pb2 import ResponseFormat, Sampling

GRAMMAR_FIELD = "response_format.grammar.definition"
_TEMPLATE_FIELD = "chat_template_kwargs_json"
MAX_GRAMMAR_CHARACTERS = 16 * 1024
MAX_NESTING = 64
"""llama.cpp reads nested groups by recursion; thousands of them would overflow its stack and end the process."""

_ROLES = {
    Role.ROLE_SYSTEM: "system",
    Role.ROLE_DEVELOPER: "system",  # the model's template knows no developer
    Role.ROLE_USER: "user",
    Role.ROLE_ASSISTANT: "assistant",
}

_SCALARS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "repetition_penalty": "repeat_penalty",
    "max_output_tokens": "max_tokens",
}
"""Fields of `Sampling` that have a counterpart of the same meaning, and its name."""

# `user`, `safety_identifier`, `metadata`, `prompt_cache_key` and cache breakpoints are marks for a remote provider's
# books and cache; they change no answer and have no meaning here.
_REFUSED: tuple[tuple[str, Callable[[ChatSpec], bool], str], ...] = (
    ("tools", lambda s: bool(s.tools), "cannot call tools"),
    ("tool_choice", lambda s: _demands_tool(s), "cannot call tools"),
    (
        "reasoning_effort",
        lambda s: s.reasoning_effort > ReasoningEffort.REASONING_EFFORT_NONE and not sparing_field(s),
        "does not think before it answers",
    ),
    (
        "verbosity",
        lambda s: s.verbosity not in {Verbosity.VERBOSITY_UNSPECIFIED, Verbosity.VERBOSITY_MEDIUM},
        "cannot be told how wordy to be, except in words",
    ),
    ("modalities", lambda s: any(m != Modality.MODALITY_TEXT for m in s.modalities), "answers in text only"),
    ("audio", lambda s: s.HasField("audio"), "answers in text only"),
    ("prediction", lambda s: s.HasField("prediction"), "cannot make use of a predicted answer"),
    (
        "service_tier",
        lambda s: s.service_tier not in {"", "auto", "default"},
        "has one class of service: `auto` or `default`",
    ),
    ("store", lambda s: s.store, "stores no answers"),
    (
        "prompt_cache_retention",
        lambda s: s.prompt_cache_retention not in {"", "in_memory", "in-memory"},
        "keeps no prompts",
    ),
    ("web_search_options_json", lambda s: bool(s.web_search_options_json), "cannot search the web"),
    ("moderation_json", lambda s: bool(s.moderation_json), "has no moderation"),
    ("prompt_cache_options_json", lambda s: bool(s.prompt_cache_options_json), "has no prompt cache to configure"),
)
"""What the model cannot do: the field, whether it is asked for, and why not."""


def _demands_tool(spec: ChatSpec) -> bool:
    match spec.tool_choice.WhichOneof("kind"):
        case "mode":
            return spec.tool_choice.mode == ToolMode.TOOL_MODE_REQUIRED
        case "tool" | "allowed":
            return True
    return False


def chat_body(spec: ChatSpec) -> dict[str, Any]:
    """Returns the body of a streamed chat completion.

    Raises:
        InvalidRequest: If the chat makes no sense.
        UnsupportedFeature: If it asks for what the model cannot do.
    """
    for field, asked_for, reason in _REFUSED:
        if asked_for(spec):
            raise UnsupportedFeature(f"{field}: the embedded model {reason}", field=field)
    if not spec.messages:
        raise InvalidRequest("messages must not be empty", field="messages")
    body: dict[str, Any] = {
        "messages": [_message(message, f"messages[{index}]") for index, message in enumerate(spec.messages)],
        "stream": True,
        "stream_options": {"include_usage": True},
        # A chunk after every batch of the prompt: the only moments before the first token at which llama.cpp listens.
        "return_progress": True,
        **_sampling(spec.sampling),
        **_response_format(spec.response_format),
    }
    template_variables = _template_variables(spec)
    if template_variables:
        body["chat_template_kwargs"] = template_variables
    return body


def _message(message: Message, field: str) -> dict[str, Any]:
    role = _ROLES.get(message.role)
    if role is None:
        if message.role == Role.ROLE_TOOL:
            raise UnsupportedFeature(
                f"{field}.role: the embedded model cannot read tool results", field=f"{field}.role"
            )
        raise InvalidRequest(f"{field}.role is missing or unknown", field=f"{field}.role")
    texts: list[str] = []
    thoughts: list[str] = []
    for index, part in enumerate(message.parts):
        kind = part.WhichOneof("kind")
        match kind:
            case "text":
                texts.append(part.text.text)
            case "refusal":
                texts.append(part.refusal.text)
            case "reasoning":
                thoughts.append(part.reasoning.text)
            case None:
                raise InvalidRequest(f"{field}.parts[{index}] has no kind", field=f"{field}.parts[{index}]")
            case _:
                where = f"{field}.parts[{index}].{kind}"
                raise UnsupportedFeature(f"{where}: the embedded model reads text only", field=where)
    text = "\n".join(texts)
    # Chat templates have no place for names; written before the text, the model can tell the speakers apart.
    entry = {"role": role, "content": f"{message.name}: {text}" if message.name else text}
    if thoughts:
        entry["reasoning_content"] = "\n".join(thoughts)
    return entry


def _sampling(sampling: Sampling) -> dict[str, Any]:
    body: dict[str, Any] = {
        theirs: getattr(sampling, ours) for ours, theirs in _SCALARS.items() if sampling.HasField(ours)
    }
    if body.get("max_tokens", 1) < 1:
        raise InvalidRequest("sampling.max_output_tokens must be at least 1", field="sampling.max_output_tokens")
    if sampling.HasField("seed"):
        # llama.cpp takes 32 bits, of which the highest value means "random"; and it computes slightly differently
        # when it continues a cached prompt, which a repeatable answer must not depend on.
        body |= {"seed": sampling.seed % 0xFFFF_FFFF, "cache_prompt": False}
    if sampling.stop:
        # `verbose` makes the last chunk tell which stop text it was.
        body |= {"stop": [text for text in sampling.stop if text], "verbose": True}
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    if sampling.logprobs:
        # With 0 llama.cpp reports none at all; `chunks` cuts the list to what was asked for.
        body |= {"logprobs": True, "top_logprobs": max(1, sampling.top_logprobs)}
    return body


def _response_format(response_format: ResponseFormat) -> dict[str, Any]:
    match response_format.WhichOneof("kind"):
        case "json_object":
            return {"response_format": {"type": "json_object"}}
        case "json_schema":
            wanted = response_format.json_schema
            schema = enforceable(wanted.schema_json, strict=wanted.strict)
            json_schema = {"name": wanted.name, "strict": True, "schema": schema}
            return {"response_format": {"type": "json_schema", "json_schema": json_schema}}
        case "grammar":
            if response_format.grammar.syntax != GrammarSyntax.GRAMMAR_SYNTAX_GBNF:
                raise UnsupportedFeature(
                    "response_format.grammar.syntax: the embedded model reads GBNF grammars only",
                    field="response_format.grammar.syntax",
                )
            return {"grammar": _checked_grammar(response_format.grammar.definition)}
    return {}


def _checked_grammar(definition: str) -> str:
    """Returns the grammar, if it is one that llama.cpp can be given without harm."""
    if not definition.strip() or definition.startswith("%"):  # llama.cpp would take it for none, or for another syntax
        raise InvalidRequest("the grammar is empty or not GBNF", field=GRAMMAR_FIELD)
    if len(definition) > MAX_GRAMMAR_CHARACTERS:
        raise InvalidRequest(f"the grammar is longer than {MAX_GRAMMAR_CHARACTERS} characters", field=GRAMMAR_FIELD)
    if _nesting(definition, "(", ")") > MAX_NESTING:
        raise InvalidRequest(f"the grammar is nested deeper than {MAX_NESTING} levels", field=GRAMMAR_FIELD)
    return definition


def _nesting(text: str, opening: str, closing: str) -> int:
    """Returns how deep brackets are nested at most; those inside of literals count too."""
    depth = deepest = 0
    for character in text:
        if character in opening:
            depth += 1
            deepest = max(deepest, depth)
        elif character in closing:
            depth = max(0, depth - 1)
    return deepest


def _template_variables(spec: ChatSpec) -> dict[str, Any]:
    variables: Any = {}
    if spec.chat_template_kwargs_json:
        try:
            variables = json.loads(spec.chat_template_kwargs_json)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"{_TEMPLATE_FIELD} is not valid JSON: {error}", field=_TEMPLATE_FIELD) from error
        if not isinstance(variables, dict):
            raise InvalidRequest(f"{_TEMPLATE_FIELD} must be a JSON object", field=_TEMPLATE_FIELD)
        if _nesting(spec.chat_template_kwargs_json, "[{", "]}") > MAX_NESTING:
            raise InvalidRequest(f"{_TEMPLATE_FIELD} is nested too deeply", field=_TEMPLATE_FIELD)
    if sparing_field(spec):
        variables = {"enable_thinking": False, **variables}
    return dict(variables)
