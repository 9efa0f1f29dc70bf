"""What the models of the dialect's vendor take, as far as requests must be written differently for them.

The API refuses with status 400 what a model does not take, so this table decides what is sent, what is refused by name
beforehand, and what an open limit becomes. A model newer than the table is treated like the newest of its family.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Traits(NamedTuple):
    """What one generation of models takes.

    Attributes:
        default_tokens: The limit of an answer that the request leaves open; the API wants one.
        most_tokens: The largest limit that the model takes.
        thinking: The kinds of `thinking` that it takes.
        thinks: Whether it may think when the request does not say so.
        displays: Whether it can be told to show or to hide its thoughts.
        efforts: The words of `output_config.effort` that it knows, least first.
        sampling: Whether temperature, top_p and top_k are taken: all, at most one of temperature and top_p, or none.
        forced_tools: Whether a tool call can be demanded.
        structured: Whether answers and tool arguments can be held to a JSON Schema.
        binds: Whether past thoughts are tied to everything that was said before them.
    """

    default_tokens: int
    most_tokens: int
    thinking: frozenset[str]
    thinks: bool = False
    displays: bool = True
    efforts: tuple[str, ...] = ()
    sampling: Literal["all", "one", "none"] = "all"
    forced_tools: bool = True
    structured: bool = True
    binds: bool = False


_BUDGET = frozenset({"enabled", "disabled"})
_ALL_EFFORTS = ("low", "medium", "high", "xhigh", "max")

_ALWAYS = Traits(128_000, 128_000, frozenset({"adaptive"}), thinks=True, efforts=_ALL_EFFORTS, sampling="none")
_FLAGSHIP = _ALWAYS._replace(forced_tools=False, binds=True)
_ADAPTIVE = _ALWAYS._replace(thinking=frozenset({"adaptive", "disabled"}))
_EITHER = _ADAPTIVE._replace(
    thinking=frozenset({"adaptive", "enabled", "disabled"}),
    thinks=False,
    efforts=("low", "medium", "high", "max"),
    sampling="one",
)
_V4_5 = Traits(64_000, 64_000, _BUDGET, sampling="one")
# A prompt and a limit that exceed the context together are refused by these, so their limit must not be the largest.
_V4 = Traits(8_192, 32_000, _BUDGET, sampling="one", structured=False)
_V3 = Traits(4_096, 4_096, frozenset(), displays=False, structured=False)

OTHER = Traits(8_192, 2**31 - 1, _BUDGET, thinks=True, displays=False, structured=False)
"""A model of another vendor whose server speaks the dialect."""

_FAMILIES: Mapping[str, Sequence[tuple[tuple[int, int], Traits]]] = {
    "fable": (((5, 1), _FLAGSHIP), ((0, 0), _ALWAYS)),
    "mythos": (((5, 1), _FLAGSHIP), ((0, 0), _ALWAYS)),
    "opus": (
        ((5, 5), _FLAGSHIP),
        ((5, 0), _ADAPTIVE),
        ((4, 7), _ADAPTIVE._replace(thinks=False)),
        ((4, 6), _EITHER),
        ((4, 5), _V4_5._replace(efforts=("low", "medium", "high"))),
        ((4, 0), _V4),
        ((0, 0), _V3),
    ),
    "sonnet": (
        ((5, 5), _FLAGSHIP._replace(thinking=frozenset({"adaptive", "between_tools"}))),
        ((5, 0), _ADAPTIVE),
        ((4, 6), _EITHER),
        ((4, 5), _V4_5),
        ((4, 0), _V4._replace(most_tokens=64_000)),
        ((3, 7), _V4._replace(most_tokens=64_000, sampling="all")),
        ((3, 5), _V3._replace(default_tokens=8_192, most_tokens=8_192)),
        ((0, 0), _V3),
    ),
    "haiku": (
        ((5, 5), _ADAPTIVE),
        ((4, 5), _V4_5),
        ((3, 5), _V3._replace(default_tokens=8_192, most_tokens=8_192)),
        ((0, 0), _V3),
    ),
}
"""The generations of each family from their first version on, newest first."""

_NAMES = (
    re.compile(r"claude-(?P<family>[a-z]+)(?:-(?P<major>\d{1,2})(?:[-.](?P<minor>\d{1,2}))?)?(?!\d)"),
    re.compile(r"claude-(?P<major>\d{1,2})(?:[-.](?P<minor>\d{1,2}))?-(?P<family>[a-z]+)"),
)
"""How names are made, today and before; clouds and resellers put something before and behind."""

_NEWEST = (99, 0)


@lru_cache(maxsize=256)
def traits_of(model: str) -> Traits:
    """Returns what a model takes, by the provider's name of it."""
    for pattern in _NAMES:
        if (match := pattern.search(model.lower())) and (rows := _FAMILIES.get(match["family"])):
            version = (int(match["major"]), int(match["minor"] or 0)) if match["major"] else _NEWEST
            return next(traits for first, traits in rows if version >= first)
    return OTHER
