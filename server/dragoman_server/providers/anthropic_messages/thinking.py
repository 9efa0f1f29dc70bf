"""How much the model is to think, in the words that the model knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dragoman.v1.message_pb2 import Role
from dragoman.v1.sampling_pb2 import ReasoningEffort
from dragoman_server.errors import Dispensable, UnsupportedFeature
from dragoman_server.providers.anthropic_messages.messages import own_signature
from dragoman_server.providers.anthropic_messages.models import OTHER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dragoman.v1.run_pb2 import ChatSpec
    from dragoman_server.providers.anthropic_messages.models import Traits
    from dragoman_server.providers.json_values import Json

LEAST_BUDGET = 1024
"""The API takes no smaller budget."""
ANSWER_TOKENS = 8_192
"""What an answer whose limit is open has beyond the budget of the thoughts."""

_EFFORTS: Mapping[int, tuple[str, int]] = {
    ReasoningEffort.REASONING_EFFORT_MINIMAL: ("low", 1_024),
    ReasoningEffort.REASONING_EFFORT_LOW: ("low", 2_048),
    ReasoningEffort.REASONING_EFFORT_MEDIUM: ("medium", 8_192),
    ReasoningEffort.REASONING_EFFORT_HIGH: ("high", 16_384),
    ReasoningEffort.REASONING_EFFORT_XHIGH: ("xhigh", 24_576),
    ReasoningEffort.REASONING_EFFORT_MAX: ("max", 32_000),
}
"""For each effort: its word, and the budget that stands for it with models that know no words."""

_SCALE = ("low", "medium", "high", "xhigh", "max")


class Thinking(NamedTuple):
    """What a request says of thinking.

    Attributes:
        config: `thinking`; None leaves it to the model.
        effort: `output_config.effort`; empty leaves it to the model.
        field: The field of the spec that asks for thought; empty if none does.
        max_tokens: The limit of the whole answer, thoughts included.
    """

    config: Json | None
    effort: str
    field: str
    max_tokens: int

    @property
    def manual(self) -> bool:
        """Whether the thoughts have a budget, which goes with fewer other settings."""
        return self.config is not None and self.config["type"] == "enabled"

    @property
    def asked(self) -> bool:
        """Whether the request asks for thought, whatever the model does by itself."""
        return bool(self.field)


def thinking_of(spec: ChatSpec, traits: Traits, mark: bytes) -> Thinking:
    """Returns what to say of thinking.

    Args:
        spec: What is asked for.
        traits: What the model takes.
        mark: The provider's mark on its signatures.

    Raises:
        UnsupportedFeature: If the model cannot think, or cannot leave it, as the request wants.
    """
    limit = spec.sampling.max_output_tokens if spec.sampling.HasField("max_output_tokens") else None
    open_limit = traits.default_tokens if limit is None else limit
    if spec.HasField("reasoning_budget_tokens"):  # it wins over the effort
        field, budget = "reasoning_budget_tokens", spec.reasoning_budget_tokens
        if budget > 0:
            thinking = _with_budget(field, budget, limit, traits)
        else:
            thinking = Thinking(_off(field, traits), "", "", open_limit)
    elif spec.reasoning_effort == ReasoningEffort.REASONING_EFFORT_NONE:
        thinking = Thinking(_off("reasoning_effort", traits), "", "", open_limit)
    elif spec.reasoning_effort:
        thinking = _with_effort(spec.reasoning_effort, limit, traits)
    else:
        thinking = Thinking(None, "", "", open_limit)
    if thinking.manual and traits is not OTHER:
        _check_past_thoughts(spec, thinking.field, mark)
    if spec.HasField("include_reasoning"):
        return thinking._replace(config=_displayed(thinking.config, spec.include_reasoning, traits))
    return thinking


def _off(field: str, traits: Traits) -> Json | None:
    if not traits.thinks:
        return None
    for kind in ("disabled", "between_tools"):
        if kind in traits.thinking:
            return {"type": kind}
    raise UnsupportedFeature("this model cannot do without thinking", field=field)


def _with_budget(field: str, budget: int, limit: int | None, traits: Traits) -> Thinking:
    if "enabled" not in traits.thinking:
        raise UnsupportedFeature("this model has no budget for its thoughts", field=field)
    if limit is None:
        limit = min(max(traits.default_tokens, budget + ANSWER_TOKENS), traits.most_tokens)
    budget = min(budget, limit - 1)  # a bound from above, and the API wants it below the limit
    if budget < LEAST_BUDGET:
        raise UnsupportedFeature(
            f"this model thinks with {LEAST_BUDGET} tokens at least, within the limit of the answer", field=field
        )
    return Thinking({"type": "enabled", "budget_tokens": budget}, "", field, limit)


def _with_effort(effort: int, limit: int | None, traits: Traits) -> Thinking:
    field = "reasoning_effort"
    if not traits.thinking:
        refusal = Dispensable if effort == ReasoningEffort.REASONING_EFFORT_MINIMAL else UnsupportedFeature
        raise refusal("this model does not think", field=field)
    wanted, budget = _EFFORTS[effort]
    word = ""
    if traits.efforts:  # the nearest that is not more
        word = next(known for known in reversed(traits.efforts) if _SCALE.index(known) <= _SCALE.index(wanted))
    if "adaptive" in traits.thinking:
        config: Json | None = None if traits.thinks else {"type": "adaptive"}
        return Thinking(config, word, field, traits.default_tokens if limit is None else limit)
    if limit is not None:
        budget = min(budget, limit // 2)  # the answer needs room, too
    return _with_budget(field, budget, limit, traits)._replace(effort=word)


def _displayed(config: Json | None, shown: bool, traits: Traits) -> Json | None:
    """Returns the configuration that also says whether the thoughts are shown."""
    if config is None and traits.thinks and "adaptive" in traits.thinking:
        config = {"type": "adaptive"}
    if not traits.displays:
        if not shown and traits.thinking and (config is None or config["type"] != "disabled"):
            raise UnsupportedFeature("this model cannot hide its thoughts", field="include_reasoning")
        return config
    if config is None or config["type"] not in ("adaptive", "enabled"):
        return config  # there will be none
    return {**config, "display": "summarized" if shown else "omitted"}


def _check_past_thoughts(spec: ChatSpec, field: str, mark: bytes) -> None:
    """With a budget, the turn that called the tools whose results come last must begin with its thoughts."""
    messages = spec.messages
    if not messages or messages[-1].role != Role.ROLE_TOOL:
        return
    for message in reversed(messages):
        if message.role == Role.ROLE_TOOL:
            continue
        parts = message.parts if message.role == Role.ROLE_ASSISTANT else ()
        if not any(own_signature(part.reasoning, mark) for part in parts):
            raise UnsupportedFeature(
                "the model cannot think here: the thoughts that led to the tool calls are not in the conversation",
                field=field,
            )
        return
