"""Strategies: which of several targets of the same order is asked first."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from random import Random

    from dragoman_server.providers.routing.target import Target


class Strategy(Protocol):
    """Picks one of at least one option, given the time and a source of chance."""

    def __call__(self, options: Sequence[Option], now: float, random: Random) -> Option:
        """Returns the option to ask first."""


class Option(NamedTuple):
    """A target of a model.

    Attributes:
        target: The target.
        weight: Its share, for `weighted`.
        order: Its rank: it is asked only when none of a lower order can serve.
    """

    target: Target
    weight: int = 1
    order: int = 0


def priority(options: Sequence[Option], now: float, random: Random) -> Option:
    """Takes them as they stand."""
    return options[0]


def weighted(options: Sequence[Option], now: float, random: Random) -> Option:
    """Draws one by weight."""
    return random.choices(options, [option.weight for option in options])[0]


def least_outstanding(options: Sequence[Option], now: float, random: Random) -> Option:
    """Takes the one with the fewest requests, those that wait included; chance decides between equals."""
    loads = [option.target.in_flight + option.target.queued for option in options]
    least = min(loads)
    return random.choice([option for option, load in zip(options, loads, strict=True) if load == least])


def lowest_latency(options: Sequence[Option], now: float, random: Random) -> Option:
    """Takes the one that answers soonest; those of which nothing is known come first, the least busy before others."""
    return min(options, key=lambda option: (option.target.expected_latency(now), option.target.in_flight))


STRATEGIES: Mapping[str, Strategy] = {
    "priority": priority,
    "weighted": weighted,
    "least_outstanding": least_outstanding,
    "lowest_latency": lowest_latency,
}
"""By their name in the settings."""
