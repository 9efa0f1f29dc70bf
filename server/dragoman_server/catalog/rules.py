"""The rules of one model: which sampling values a request gets that leaves them open, and which it may not have.

They come before the request finds a target; what that target can do is for `providers/abilities.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dragoman.v1.message_pb2 import Role
from dragoman.v1.run_pb2 import ChatSpec, TaskProfile
from dragoman_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dragoman_server.providers.facts import Facts
    from dragoman_server.settings import ModelSettings, RangeSettings

PROFILES: Mapping[int, str] = {
    TaskProfile.TASK_PROFILE_GENERAL: "general",
    TaskProfile.TASK_PROFILE_CODING: "coding",
    TaskProfile.TASK_PROFILE_REASONING: "reasoning",
}
PRESETS: Mapping[str, Mapping[str, float]] = {
    "general": {"temperature": 0.7},
    "coding": {"temperature": 0.2},
    "reasoning": {"temperature": 0.6},
}
"""Presets of models that have none of their own; they count only if the request names a profile. Only the temperature:
some models take no other value beside it."""

_WHOLE_NUMBERS = frozenset({"top_k", "max_output_tokens"})


class Rules:
    """The rules of one model.

    Args:
        facts: What is known of it.
        settings: What the configuration says of it, if anything.

    Attributes:
        any: Whether there are any: without, only a profile that a request names changes it.
    """

    __slots__ = ("_clamps", "_defaults", "_limits", "_presets", "_unsupported", "any")

    def __init__(self, facts: Facts, settings: ModelSettings | None = None) -> None:
        self._unsupported = facts.unsupported
        self._limits: dict[str, RangeSettings] = {}
        self._defaults: dict[str, float] = {}
        self._presets: dict[str, dict[str, float]] = {}
        self._clamps = settings is not None and settings.out_of_range == "clamp"
        if settings is not None:
            self._limits.update(settings.limits.items())
            self._defaults.update(settings.defaults.items())
            self._presets.update((profile, dict(values.items())) for profile, values in settings.presets.items())
        self.any = bool(self._limits or self._defaults or self._presets)

    def settle(self, spec: ChatSpec) -> ChatSpec:
        """Returns the request with the sampling values that hold for it: the same message, if nothing changes.

        Raises:
            InvalidRequest: If a value is out of the model's range, and the model does not clamp.
        """
        if not self.any and not spec.task_profile:
            return spec
        given = {descriptor.name for descriptor, _ in spec.sampling.ListFields()}
        changes = {name: value for name, value in self._open_values(spec).items() if name not in given}
        for name, limits in self._limits.items():
            if name not in given and name not in changes:
                continue
            value = changes.get(name, getattr(spec.sampling, name))
            if not limits.min <= value <= limits.max:
                changes[name] = self._within(name, value, limits)
        if not changes and not spec.task_profile:
            return spec
        settled = ChatSpec()
        settled.CopyFrom(spec)
        settled.ClearField("task_profile")  # it is done with: no provider needs to know it
        for name, value in changes.items():
            setattr(settled.sampling, name, round(value) if name in _WHOLE_NUMBERS else value)
        return settled

    def _open_values(self, spec: ChatSpec) -> dict[str, float]:
        """Returns values for what a request may leave open."""
        values = dict(self._defaults)
        presets = self._presets or PRESETS
        if self._presets or spec.task_profile:
            values |= presets.get(_profile(spec), {})
        return {name: value for name, value in values.items() if f"sampling.{name}" not in self._unsupported}

    def _within(self, name: str, value: float, limits: RangeSettings) -> float:
        if self._clamps:
            return min(max(value, limits.min), limits.max)
        field = f"spec.chat.sampling.{name}"
        raise InvalidRequest(
            f"`{field}` must be from {limits.min:g} to {limits.max:g} for this model, not {value:g}", field=field
        )


def _profile(spec: ChatSpec) -> str:
    if spec.task_profile:
        return PROFILES[spec.task_profile]
    developer = any(message.role == Role.ROLE_DEVELOPER for message in spec.messages)
    return "coding" if developer else "general"
