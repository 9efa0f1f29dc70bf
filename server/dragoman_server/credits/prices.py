"""What things cost."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dragoman.v1.usage_pb2 import Usage
    from dragoman_server.settings import CreditPriceSettings

MILLION = 1_000_000

MOST_REMEMBERED = 10_000
"""Bound of what is remembered: proxies take any name of a model."""


@dataclass(frozen=True, slots=True)
class Price:
    """What an operation with a model costs, in millionths of a currency; tokens by the million. Sums are rounded up.

    Attributes:
        request: For each request.
        input: For tokens read.
        cached_input: For tokens read from the provider's cache.
        output: For tokens written.
    """

    request: int
    input: int
    cached_input: int
    output: int

    @property
    def is_free(self) -> bool:
        """Whether it is nothing, whatever is done."""
        return not (self.request or self.input or self.cached_input or self.output)

    def at_most(self, input_tokens: int, output_tokens: int) -> int:
        """Returns the most that so many tokens can cost, whatever of them is read from a cache."""
        dearest = self.input if self.input >= self.cached_input else self.cached_input
        return self.request - -(dearest * input_tokens + self.output * output_tokens) // MILLION

    def of(self, usage: Usage) -> int:
        """Returns what was consumed costs."""
        tokens = self.input * usage.input_tokens + self.output * usage.output_tokens
        if self.cached_input != self.input:
            cached = min(usage.input_details.cached_tokens, usage.input_tokens)
            tokens += (self.cached_input - self.input) * cached
        return self.request - -tokens // MILLION

    def buys(self, amount: int, input_tokens: int) -> int:
        """Returns how many written tokens an amount buys, beside a request and what it reads.

        It is less than 0 if the amount does not even buy those. Written tokens must cost something.
        """
        rest = (amount - self.request) * MILLION - max(self.input, self.cached_input) * input_tokens
        return rest // self.output


class PriceList:
    """The prices as configured: the first that fits counts."""

    def __init__(self, prices: Iterable[CreditPriceSettings]) -> None:
        self._prices = [
            (price, re.compile(".*".join(map(re.escape, price.model.split("*"))), re.DOTALL)) for price in prices
        ]
        self._known: dict[tuple[str, str, str], Price | None] = {}

    def find(self, operation: str, model: str, currency: str) -> Price | None:
        """Returns what an operation with a model costs in a currency; None if it costs nothing there.

        Args:
            operation: `chat`, `embeddings` or `tool:NAME`.
            model: The model's id.
            currency: The currency.
        """
        key = operation, model, currency
        if key not in self._known:
            if len(self._known) >= MOST_REMEMBERED:
                self._known.clear()
            self._known[key] = self._find(*key)
        return self._known[key]

    def _find(self, operation: str, model: str, currency: str) -> Price | None:
        for price, models in self._prices:
            if price.operation == operation and price.currency in ("", currency) and models.fullmatch(model):
                read = price.input_micros_per_million
                cached = price.cached_input_micros_per_million
                cached = read if cached is None else cached
                found = Price(price.request_micros, read, cached, price.output_micros_per_million)
                return None if found.is_free else found
        return None
