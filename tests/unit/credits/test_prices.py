from __future__ import annotations

from fractions import Fraction
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from dragoman.v1.usage_pb2 import InputTokenDetails, Usage
from dragoman_server.credits.prices import MOST_REMEMBERED, Price, PriceList
from dragoman_server.settings import CreditPriceSettings

prices = st.builds(
    Price,
    st.integers(0, 10**7),
    st.integers(0, 10**9),
    st.integers(0, 10**9),
    st.integers(0, 10**9),
)
tokens = st.integers(0, 10**7)


@given(prices, tokens, tokens, tokens)
def test_nothing_costs_more_than_it_can_at_most(price: Price, read: int, cached: int, written: int) -> None:
    usage = Usage(input_tokens=read, output_tokens=written, input_details=InputTokenDetails(cached_tokens=cached))
    assert 0 <= price.of(usage) <= price.at_most(read, written)


@given(prices, tokens, tokens)
def test_a_cost_is_exact_but_for_one_rounding_up(price: Price, read: int, written: int) -> None:
    exact = price.request + Fraction(price.input * read + price.output * written, 1_000_000)
    assert price.of(Usage(input_tokens=read, output_tokens=written)) == ceil(exact)


@given(prices.filter(lambda price: price.output > 0), st.integers(0, 10**13), tokens)
def test_an_amount_buys_as_many_tokens_as_it_pays_for(price: Price, amount: int, read: int) -> None:
    bought = price.buys(amount, read)
    if bought >= 0:
        assert price.at_most(read, bought) <= amount < price.at_most(read, bought + 1)
    else:
        assert price.at_most(read, 0) > amount


def test_cached_tokens_have_their_own_price() -> None:
    price = Price(request=0, input=1_000_000, cached_input=100_000, output=0)
    usage = Usage(input_tokens=100, input_details=InputTokenDetails(cached_tokens=90))
    assert price.of(usage) == 10 + 9
    usage.input_details.cached_tokens = 10**6  # more than were read makes no sense, and is no refund
    assert price.of(usage) == 10


def a_price(cost: int, **fields: str) -> CreditPriceSettings:
    return CreditPriceSettings(request_micros=cost, **fields)  # type: ignore[arg-type]  # all are strings


def found(prices: PriceList, operation: str, model: str, currency: str = "credits") -> int | None:
    price = prices.find(operation, model, currency)
    return None if price is None else price.request


def test_the_first_price_that_fits_counts() -> None:
    prices = PriceList(
        [
            a_price(1, model="gpt-*"),
            a_price(2, model="gpt-4"),
            a_price(0, model="free-*"),
            a_price(3, currency="spark"),
            a_price(4, model="a.b[c]*"),
            a_price(5, operation="embeddings"),
            a_price(6, operation="tool:web_search"),
        ]
    )
    assert found(prices, "chat", "gpt-4") == 1
    assert found(prices, "chat", "other") is None
    assert found(prices, "chat", "free-1") is None
    assert found(prices, "chat", "other", "spark") == 3
    assert found(prices, "chat", "a.b[c]1") == 4
    assert found(prices, "chat", "axb[c]1") is None
    assert found(prices, "embeddings", "gpt-4") == 5
    assert found(prices, "tool:web_search", "") == 6
    assert found(prices, "tool:other", "") is None


def test_what_is_remembered_is_bounded() -> None:
    prices = PriceList([a_price(1)])
    for number in range(MOST_REMEMBERED + 10):
        assert found(prices, "chat", f"model-{number}") == 1
    assert len(prices._known) <= MOST_REMEMBERED
