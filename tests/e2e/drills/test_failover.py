"""One of two upstream servers dies under load: nothing fails that had not begun to answer, whatever the two speak."""

from __future__ import annotations

import asyncio
import json

import pytest

from dragoman_server.settings import BreakerSettings, RoutingSettings
from tests.e2e.drills.site import DIALECTS, Site, deltas, plays, site_over
from tests.e2e.matrix.words import Said

pytestmark = pytest.mark.timeout(120)

PAIRS = (("openai_chat", "anthropic_messages"), ("anthropic_messages", "gemini"), ("gemini", "openai_chat"))
SAID = Said(("a", "b", "c", "d"))
ROUTING = RoutingSettings(backoff=0.01, max_backoff=0.1, breaker=BreakerSettings(failures=3, cooldown=60))


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
async def test_nothing_fails_that_had_not_begun(pair: tuple[str, str], stream: bool) -> None:
    upstreams = [(dialect, plays(DIALECTS[dialect], SAID, first=0.05, gap=0.03)) for dialect in pair]
    async with site_over(*upstreams, strategy="least_outstanding", routing=ROUTING) as site:
        asking: list[asyncio.Task[tuple[str, str]]] = []
        for number in range(100):
            asking.append(asyncio.create_task(outcome(site, stream=stream)))
            await asyncio.sleep(0.004)
            if number == 50:
                kill(site)
        outcomes = await asyncio.gather(*asking)
        assert {text for text, _ in outcomes if text != "broken"} == {"abcd"}, "what is answered is answered whole"
        broken = [provider for text, provider in outcomes if text == "broken"]
        if stream:
            assert set(broken) == {"u0"}, "the drill hit some that had begun, and nobody else"
        else:
            assert not broken, "nobody has seen anything of a plain answer that is not whole"
        assert {provider for _, provider in outcomes[-20:]} == {"u1"}, "the dead one is left alone"
        await site.idle()


def kill(site: Site) -> None:
    """Ends the first upstream server: it takes no connections, and those that it has are cut."""
    server = site.servers[0]
    server._server.close()
    for connection in tuple(server.connections):
        connection.transport.abort()


async def outcome(site: Site, *, stream: bool) -> tuple[str, str]:
    """Returns the text of an answer, or `broken` for one that ended with an error after it had begun; and who made it.

    Raises:
        AssertionError: If the answer failed before it began.
    """
    async with site.ask(stream=stream) as answer:
        body = await answer.read()
        assert answer.status == 200, body
        provider = answer.headers["x-dragoman-provider"]
        if not stream:
            return json.loads(body)["choices"][0]["message"]["content"], provider
        if b'"error"' in body:
            assert b'"content":"a"' in body, "it had not begun"
            return "broken", provider
        return "".join(deltas(body)), provider
