"""What Soke's plans sell: requests a minute and credits, and how callers hear of what is left."""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dragoman.v1.account_service_pb2 import CreateAccountRequest, CreateKeyRequest
from dragoman.v1.account_service_pb2_grpc import AccountServiceStub
from dragoman.v1.credit_service_pb2 import ListBalancesRequest
from dragoman.v1.credit_service_pb2_grpc import CreditServiceStub
from dragoman_server import configuration
from dragoman_server.settings import PlanSettings, RateLimitSettings, RateSettings, Settings
from tests.support.core import KEY, METADATA
from tests.support.soke import API, BY_KEY, CHAT, CONVERSATIONS, Site, by_token, script, soke_site, user
from tests.support.sources import ROOT

if TYPE_CHECKING:
    from tests.support.soke import Answer


def documented() -> Settings:
    """Returns what the documentation tells of Soke's plans and prices, as this server reads it."""
    found = re.search(r"```toml\n(.*?)```", (ROOT / "docs" / "soke.md").read_text(), re.DOTALL)
    assert found is not None
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(found[1])
        file.flush()
        return configuration.load(Path(file.name), {})


PLANS, CREDITS = documented().plans, documented().credits
LIMITS = ("X-Soke-Limit", "X-Soke-Remaining", "X-Soke-Reset")


async def key_of(site: Site, plan: str, account_id: str = "acme") -> dict[str, str]:
    """Returns the headers of a key of a new account with a plan."""
    accounts = AccountServiceStub(site.core.channel())
    await accounts.CreateAccount(CreateAccountRequest(name="a", account_id=account_id, plan=plan), metadata=METADATA)
    made = await accounts.CreateKey(CreateKeyRequest(name="k", account_id=account_id), metadata=METADATA)
    return {"X-Soke-Key": made.secret}


async def balance_of(site: Site, account_id: str = "acme") -> int:
    credits = CreditServiceStub(site.core.channel())
    found = await credits.ListBalances(ListBalancesRequest(account_id=account_id), metadata=METADATA)
    return sum(balance.available_micros for balance in found.balances)


def limits_of(answer: Answer) -> tuple[str, str]:
    reset = int(answer.headers["X-Soke-Reset"])
    assert time.time() - 2 <= reset <= time.time() + 62
    return answer.headers["X-Soke-Limit"], answer.headers["X-Soke-Remaining"]


@pytest.mark.parametrize(("plan", "rate", "credits"), [("creator", 10, 500), ("pro", 30, 2_000), ("scale", 60, 10_000)])
async def test_plans(plan: str, rate: int, credits: int) -> None:
    async with soke_site(plans=PLANS, credits=CREDITS) as site:
        key = await key_of(site, plan)
        for number in range(1, rate + 1):
            answer = await site.chat(key, user("hi"))
            assert answer.said == "You said: hi"
            assert limits_of(answer) == (str(rate), str(rate - number))
            assert answer.headers["X-Soke-Credits-Used"] == "5"
            assert answer.headers["X-Soke-Credits-Remaining"] == str(credits - 5 * number)
        for stream in (False, True):
            refused = await site.chat(key, user("hi"), stream=stream)
            assert (refused.status, refused.error["code"]) == (429, "RATE_LIMIT_EXCEEDED")
            assert limits_of(refused) == (str(rate), "0")
            wait = refused.error["details"]["retryAfter"]
            assert 0 < wait <= 60
            assert refused.headers["Retry-After"] == str(wait)
        assert await balance_of(site) == (credits - 5 * rate) * 1_000_000


async def test_a_chat_costs_the_same_however_long_it_is() -> None:
    async with soke_site(plans=PLANS, credits=CREDITS) as site:
        key = await key_of(site, "pro")
        question = user("word " * 500)
        assert (await site.chat(key, question)).headers["X-Soke-Credits-Remaining"] == "1995"
        headers, frames = await site.stream(key, question)
        assert limits_of_head(headers) == ("30", "28")
        assert "X-Soke-Credits-Used" not in headers  # nobody knows it yet
        assert (frames[-1]["credits_used"], frames[-1]["credits_remaining"]) == (5, 1990)


def limits_of_head(headers: Any) -> tuple[str, str]:
    return headers["X-Soke-Limit"], headers["X-Soke-Remaining"]


async def test_what_is_refused_or_fails_costs_nothing() -> None:
    async with soke_site(plans=PLANS, credits=CREDITS) as site:
        key = await key_of(site, "creator")
        for body in (
            {},
            {"messages": [user("x")], "platform": "tiktok"},
            {"messages": [user("x")], "connectionId": "c"},
            {"messages": [user("x")], "model": "nope"},
            {"messages": [script(fail_before={"reason": "PROVIDER_FAILED", "message": "No."})]},
        ):
            answer = await site.ask("POST", CHAT, key, body)
            assert answer.status >= 400
            assert limits_of(answer)[0] == "10"
        assert await balance_of(site) == 500_000_000


async def test_without_credits_there_is_no_answer() -> None:
    plan = PlanSettings(name="poor", monthly_micros=7_500_000, limits=RateSettings(requests_per_minute=9))
    async with soke_site(plans=(plan,), credits=CREDITS) as site:
        key = await key_of(site, "poor")
        assert (await site.chat(key, user("hi"))).headers["X-Soke-Credits-Remaining"] == "2.5"
        for stream in (False, True):
            refused = await site.chat(key, user("hi"), stream=stream)
            assert (refused.status, refused.error["code"]) == (402, "INSUFFICIENT_CREDITS")
            assert refused.headers["X-Soke-Credits-Remaining"] == "2.5"
            assert limits_of(refused)[0] == "9"
        assert await balance_of(site) == 2_500_000


async def test_a_conversation_that_was_refused_its_first_answer_is_gone() -> None:
    account = RateSettings(requests_per_minute=1)
    async with soke_site(rate_limits=RateLimitSettings(account=account)) as site:
        ada = by_token()
        first = await site.chat(ada, user("hi"))
        refused = await site.chat(ada, user("hi"))
        assert (refused.status, limits_of(refused)) == (429, ("1", "0"))
        assert await site.conversation_ids(ada) == [first.body["conversation_id"]]


async def test_every_answer_tells_what_is_left() -> None:
    rates = RateLimitSettings(key=RateSettings(requests_per_minute=5), account=RateSettings(requests_per_minute=7))
    async with soke_site(rate_limits=rates) as site:
        ada = by_token()
        for headers, limit in ((BY_KEY, "5"), (ada, "7")):
            for method, path in (
                ("GET", CONVERSATIONS),
                ("GET", f"{CONVERSATIONS}/nope"),
                ("DELETE", f"{CONVERSATIONS}/nope"),
                ("GET", f"{API}/connections"),
                ("POST", CHAT),
            ):
                answer = await site.ask(method, path, headers, {} if method == "POST" else None)
                assert limits_of(answer) == (limit, limit), (method, path)
            assert limits_of(await site.chat(headers, user("hi")))[1] == str(int(limit) - 1)
            assert limits_of(await site.ask("GET", CONVERSATIONS, headers))[1] == str(int(limit) - 1)
            credential = {"Authorization": f"Bearer {KEY}"} if headers is BY_KEY else headers
            state = (await site.ask("GET", "/v1/caller", credential)).body["rate_state"]
            assert (state["request_limit"], state["requests_remaining"]) == (int(limit), int(limit) - 1)
        answer = await site.ask("POST", CHAT, {"X-Soke-Key": "wrong"}, {})
        assert answer.status == 401
        assert not any(name in answer.headers for name in LIMITS)


async def test_too_many_at_a_time_is_told_like_too_many_a_minute() -> None:
    rates = RateSettings(concurrent_runs=1, requests_per_minute=9)
    async with soke_site(rate_limits=RateLimitSettings(key=rates)) as site:
        endless = script(text=["a "] * 1000, delay=0.02, repeat=100)
        async with site.client.post(CHAT, json={"messages": [endless], "stream": True}, headers=BY_KEY) as response:
            await response.content.readline()
            refused = await site.chat(BY_KEY, user("hi"))
            assert (refused.status, refused.error["code"]) == (429, "RATE_LIMIT_EXCEEDED")
            assert limits_of(refused) == ("9", "8")
            response.close()


async def test_where_nothing_is_limited_or_sold_nothing_is_told() -> None:
    async with soke_site() as site:
        for answer in (await site.chat(BY_KEY, user("hi")), await site.ask("GET", CONVERSATIONS, by_token())):
            assert answer.status == 200
            assert not any(name.lower().startswith("x-soke") for name in answer.headers)
