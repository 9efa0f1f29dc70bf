"""How much a model shall think, in the words that its family knows.

Models before Gemini 3 take a number of tokens (0 turns thinking off, where that is possible), later ones a level. The
numbers are those that the vendor itself gives for these words.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from dragoman.v1.sampling_pb2 import ReasoningEffort
from dragoman_server.errors import Dispensable, UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dragoman.v1.run_pb2 import ChatSpec
    from dragoman_server.providers.json_values import Json

_NONE = ReasoningEffort.REASONING_EFFORT_NONE
_MINIMAL = ReasoningEffort.REASONING_EFFORT_MINIMAL
_LOW = ReasoningEffort.REASONING_EFFORT_LOW
_MEDIUM = ReasoningEffort.REASONING_EFFORT_MEDIUM
_HIGH = ReasoningEffort.REASONING_EFFORT_HIGH
_XHIGH = ReasoningEffort.REASONING_EFFORT_XHIGH
_MAX = ReasoningEffort.REASONING_EFFORT_MAX


class Family(NamedTuple):
    """Models that think alike.

    Attributes:
        names: Finds the family's models by their name.
        efforts: What each effort is: a budget in tokens, or a level. Empty if the models do not think.
        levels: Whether the efforts are levels. Such models also check that a function call comes back with its
            thought signature.
    """

    names: re.Pattern[str]
    efforts: Mapping[int, int | str]
    levels: bool = False


_BUDGETS: Mapping[int, int | str] = {_MINIMAL: 1024, _LOW: 1024, _MEDIUM: 8192, _HIGH: 24_576}
_LEVELS: Mapping[int, int | str] = {
    _MINIMAL: "LOW",
    _LOW: "LOW",
    _MEDIUM: "MEDIUM",
    _HIGH: "HIGH",
    _XHIGH: "HIGH",
    _MAX: "HIGH",
}

FAMILIES = (
    Family(re.compile(r"gemini-(?:1|2\.0)|gemma-[123]\b"), {}),
    Family(re.compile(r"gemini-2\.5-pro"), {**_BUDGETS, _XHIGH: 32_768, _MAX: 32_768}),
    Family(re.compile(r"gemini-2\.5|robotics-er-1\.5"), {**_BUDGETS, _NONE: 0, _XHIGH: 24_576, _MAX: 24_576}),
    Family(re.compile(r"gemini-3(?:\.[0-6])?-flash"), {**_LEVELS, _MINIMAL: "MINIMAL"}, levels=True),
    Family(re.compile(r""), _LEVELS, levels=True),  # what is new is like the newest
)


def family_of(model: str) -> Family:
    """Returns the family of a model."""
    return next(family for family in FAMILIES if family.names.search(model))


def thinking_config(model: str, spec: ChatSpec) -> Json | None:
    """Returns the API's `thinkingConfig`, None if the request leaves everything open.

    Raises:
        UnsupportedFeature: If the model cannot think so.
    """
    family = family_of(model)
    written: Json = {}
    if spec.HasField("reasoning_budget_tokens"):
        budget = spec.reasoning_budget_tokens
        if family.efforts:
            written["thinkingBudget"] = budget
        elif budget:
            raise UnsupportedFeature("the model does not think", field="reasoning_budget_tokens")
    elif spec.reasoning_effort:
        effort = family.efforts.get(spec.reasoning_effort)
        if effort is not None:
            written["thinkingLevel" if family.levels else "thinkingBudget"] = effort
        elif family.efforts or spec.reasoning_effort != _NONE:
            what = "the model cannot stop to think" if family.efforts else "the model does not think"
            refusal = Dispensable if not family.efforts and spec.reasoning_effort == _MINIMAL else UnsupportedFeature
            raise refusal(what, field="reasoning_effort")
    if spec.HasField("include_reasoning"):
        if family.efforts:
            written["includeThoughts"] = spec.include_reasoning
        elif spec.include_reasoning:
            raise UnsupportedFeature("the model does not think", field="include_reasoning")
    return written or None
