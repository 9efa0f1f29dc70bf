"""Refuses what a model is known not to do, by name, so that the router can emulate it or leave it out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from dragoman.v1.sampling_pb2 import Modality, ReasoningEffort
from dragoman_server.errors import Dispensable, UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dragoman.v1.message_pb2 import Part
    from dragoman.v1.run_pb2 import ChatSpec
    from dragoman_server.providers.facts import Facts


_NEUTRAL: Mapping[str, float] = {
    "sampling.temperature": 1,
    "sampling.top_p": 1,
    "sampling.top_k": 0,
    "sampling.min_p": 0,
    "sampling.frequency_penalty": 0,
    "sampling.presence_penalty": 0,
    "sampling.repetition_penalty": 1,
}
"""Values that say no more than leaving the field open; many clients always send them."""


class Abilities:
    """What a model can do, as far as that is known.

    Args:
        facts: What is known of it.
    """

    __slots__ = ("_lacks", "_thinks", "_unsupported", "_unwritten")

    def __init__(self, facts: Facts) -> None:
        self._unsupported = facts.unsupported
        self._lacks = tuple(need for need in _NEEDS if need.capability not in facts.capabilities)
        self._thinks = facts.thinks
        self._unwritten = frozenset(Modality.values()).difference(facts.writes) if facts.known else frozenset()

    @property
    def boundless(self) -> bool:
        """Whether nothing is known that it does not do."""
        return self._thinks and not (self._unsupported or self._lacks or self._unwritten)

    def check(self, spec: ChatSpec) -> None:
        """Refuses what the model is known not to do.

        Raises:
            UnsupportedFeature: At the first such thing; `field` is its path in the spec.
        """
        for path in self._unsupported:
            if _is_set(spec, path):
                raise UnsupportedFeature(f"the model does not know `{path}`", field=path)
        for need in self._lacks:
            if need.is_asked(spec):
                raise UnsupportedFeature(f"the model does not support {need.feature}", field=need.field)
        if spec.modalities and self._unwritten.intersection(spec.modalities):
            raise UnsupportedFeature("the model does not produce what `modalities` asks for", field="modalities")
        if not self._thinks and (field := sparing_field(spec)):
            raise Dispensable("the model does not think", field=field)


def _is_set(spec: ChatSpec, path: str) -> bool:
    """Whether a field is set to something that means more than leaving it open."""
    message: Any = spec
    *above, name = path.split(".")
    for step in above:
        if not message.HasField(step):
            return False
        message = getattr(message, step)
    for descriptor, value in message.ListFields():
        if descriptor.name == name:
            return path not in _NEUTRAL or value != _NEUTRAL[path]
    return False


_SPARING = (ReasoningEffort.REASONING_EFFORT_NONE, ReasoningEffort.REASONING_EFFORT_MINIMAL)


def sparing_field(spec: ChatSpec) -> str:
    """Returns the field by which a request asks for no thoughts, or as few as can be; empty if none does."""
    if spec.HasField("reasoning_budget_tokens"):  # it wins over the effort
        return "" if spec.reasoning_budget_tokens else "reasoning_budget_tokens"
    return "reasoning_effort" if spec.reasoning_effort in _SPARING else ""


def _has_images(spec: ChatSpec) -> bool:
    return any(
        _is_image(part) or any(map(_is_image, part.tool_result.parts))
        for message in spec.messages
        for part in message.parts
    )


def _is_image(part: Part) -> bool:
    return part.HasField("image") or part.file.media_type.lower().startswith("image/")


class _Need(NamedTuple):
    """Something that a request may ask for.

    Attributes:
        capability: What it takes.
        feature: Its name, for people.
        field: Its path in the spec.
        is_asked: Tells whether a request asks for it.
    """

    capability: str
    feature: str
    field: str
    is_asked: Callable[[ChatSpec], bool]


_NEEDS = (
    _Need("chat", "conversations; it makes embeddings", "model", lambda spec: True),
    _Need("tools", "tools", "tools", lambda spec: bool(spec.tools)),
    _Need("vision", "images", "messages", _has_images),
    _Need(
        "json_schema",
        "answers by a JSON schema",
        "response_format",
        lambda spec: spec.response_format.HasField("json_schema"),
    ),
    _Need("json_object", "JSON mode", "response_format", lambda spec: spec.response_format.HasField("json_object")),
    _Need("logprobs", "log probabilities", "sampling.logprobs", lambda spec: spec.sampling.logprobs),
)
