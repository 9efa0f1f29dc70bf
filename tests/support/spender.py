"""A process that spends credits as fast as it can: `python -m tests.support.spender URL ACCOUNT RUNS [hold] [brief]`.

Says `ready`, waits for a line, and says what it was charged. With `hold`, it says so when it has reserved something,
and then waits to be killed. With `brief`, credits may be reserved ahead.
"""

from __future__ import annotations

import asyncio
import random
import sys

from dragoman.v1.usage_pb2 import Usage
from dragoman_server.errors import InsufficientCredits
from dragoman_server.ids import new_id
from dragoman_server.store.database import open_store
from tests.support.credits import a_caller, credits_with

AT_ONCE = 16


def say(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


async def spend(url: str, account_id: str, runs: int, *, hangs: bool, brief: bool) -> None:
    store = open_store(url)
    credits = await credits_with(store, 0)
    await credits.start()
    caller = a_caller(account_id)
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)

    async def one() -> int:
        total = 0
        for _ in range(runs):
            try:
                hold = await credits.hold(
                    caller, run_id=new_id("run"), step_id="step_1", operation="chat", model="m", token_type="",
                    input_tokens=random.randrange(100), output_tokens=50, brief=brief,
                )  # fmt: skip
            except InsufficientCredits:
                continue
            assert hold is not None
            if hangs:
                say("held")
                await asyncio.sleep(600)
            usage = Usage(input_tokens=random.randrange(100), output_tokens=random.randrange(100))
            rule = random.choice(("completed", "cancelled", "failed"))
            charge = hold.pay(usage) if rule == "completed" else None
            total += (charge or await hold.settle(usage, rule)).amount_micros
        return total

    say(sum(await asyncio.gather(*[one() for _ in range(AT_ONCE)])))
    await credits.stop()
    await store.close()


if __name__ == "__main__":
    how = sys.argv[4:]
    asyncio.run(spend(sys.argv[1], sys.argv[2], int(sys.argv[3]), hangs="hold" in how, brief="brief" in how))
