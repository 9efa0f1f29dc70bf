"""Streams that cost credits in a real server, and checks of what its SQLite file must hold afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dragoman.v1.credit_service_pb2 import GrantCreditsRequest, LedgerEntry
from dragoman.v1.credit_service_pb2_grpc import CreditServiceStub
from dragoman.v1.message_pb2 import Message, Role
from dragoman.v1.run_service_pb2 import StreamRunRequest
from dragoman.v1.run_service_pb2_grpc import RunServiceStub
from dragoman_server.credits.service import GONE_SECONDS
from tests.support.server import CONFIG, KEY, MODEL

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Set

    import grpc

    from dragoman.v1.event_pb2 import RunCompleted
    from dragoman_server.providers.scripted import Script

METADATA = (("authorization", f"Bearer {KEY}"),)
PRICED = f"""{CONFIG}
[credits]
enabled = true
[[credits.prices]]
request_micros = 5
input_micros_per_million = 1_000_000
output_micros_per_million = 1_000_000
"""
GRANTED = 10**12
KIND = LedgerEntry.Kind
AVAILABLE = {KIND.KIND_GRANT: 1, KIND.KIND_HOLD: -1, KIND.KIND_CHARGE: 0, KIND.KIND_RELEASE: 1}
HELD = {KIND.KIND_GRANT: 0, KIND.KIND_HOLD: 1, KIND.KIND_CHARGE: -1, KIND.KIND_RELEASE: -1}


@dataclass
class Seen:
    """What the clients were told."""

    completed: dict[str, RunCompleted] = field(default_factory=dict)
    texts: dict[str, tuple[str, str]] = field(default_factory=dict)
    """What was asked and what was answered, by run."""


async def grant(channel: grpc.aio.Channel) -> None:
    """Gives the account something to spend."""
    request = GrantCreditsRequest(account_id="default", amount_micros=GRANTED)
    await CreditServiceStub(channel).GrantCredits(request, metadata=METADATA, timeout=20)


async def stream(
    channel: grpc.aio.Channel, conversation_id: str, answer: Script, seen: Seen, on_text: Callable[[], object] = int
) -> str:
    """Asks in a conversation; returns the run's id if the stream ended well."""
    request = StreamRunRequest()
    request.spec.chat.model = MODEL
    request.spec.chat.conversation_id = conversation_id
    request.spec.chat.sampling.max_output_tokens = 5_000
    asked = f"SCRIPT {answer.model_dump_json(exclude_defaults=True)}"
    request.spec.chat.messages.add(role=Role.ROLE_USER).parts.add().text.text = asked
    said = run_id = ""
    async for batch in RunServiceStub(channel).StreamRun(request, metadata=METADATA, timeout=100):
        run_id = run_id or batch.run_id
        for event in batch.events:
            if event.HasField("text_delta"):
                said += event.text_delta.text
                on_text()
            elif event.HasField("run_completed"):
                seen.completed[run_id] = event.run_completed
                seen.texts[run_id] = asked, said
    return run_id


def check_balance(file: sqlite3.Connection) -> None:
    """The balances are what the entries say, and what is reserved is what the open holds say."""
    available = held = 0
    for kind, amount in file.execute("SELECT kind, sum(amount_micros) FROM ledger_entries GROUP BY kind"):
        available += AVAILABLE[kind] * amount
        held += HELD[kind] * amount
    assert file.execute("SELECT available_micros, held_micros FROM balances").fetchall() == [(available, held)]
    assert file.execute("SELECT coalesce(sum(amount_micros), 0) FROM holds").fetchone() == (held,)
    assert available >= 0


def charged(file: sqlite3.Connection) -> int:
    """Returns what all runs were charged."""
    statement = "SELECT coalesce(sum(amount_micros), 0) FROM ledger_entries WHERE kind = ?"
    return int(file.execute(statement, (KIND.KIND_CHARGE,)).fetchone()[0])


def check_runs(file: sqlite3.Connection, seen: Seen) -> None:
    """Each run that is not going on has given back what it reserved, and was charged what its client was told."""
    statement = "SELECT run_id, kind, sum(amount_micros) FROM ledger_entries WHERE run_id != '' GROUP BY run_id, kind"
    sums: dict[str, dict[int, int]] = {}
    for run_id, kind, amount in file.execute(statement):
        sums.setdefault(run_id, {})[kind] = amount
    going_on = dict(file.execute("SELECT run_id, amount_micros FROM holds"))
    for run_id, amounts in sums.items():
        given_back = amounts.get(KIND.KIND_CHARGE, 0) + amounts.get(KIND.KIND_RELEASE, 0)
        assert amounts[KIND.KIND_HOLD] == given_back + going_on.get(run_id, 0)
    for run_id, completed in seen.completed.items():
        assert sums[run_id][KIND.KIND_CHARGE] == completed.charge.amount_micros > 5


def check_messages(file: sqlite3.Connection, seen: Seen) -> None:
    """Each conversation is one chain up to its head, and has both messages of every turn that was acknowledged."""
    parents: dict[str, str | None] = {}
    texts: dict[str, str] = {}
    for message_id, parent_id, body in file.execute("SELECT id, parent_id, body FROM messages"):
        parents[message_id] = parent_id
        texts[message_id] = Message.FromString(body).parts[0].text.text
    chains: dict[str, list[str]] = {}
    for conversation_id, head, count in file.execute("SELECT id, head_message_id, message_count FROM conversations"):
        chain = chains[conversation_id] = []
        while head is not None:
            chain.append(head)
            head = parents[head]
        assert len(chain) == count
    assert sum(map(len, chains.values())) == len(parents)
    told = {name: set(chain) for name, chain in chains.items()}
    for run_id, completed in seen.completed.items():
        question, answer = completed.message_ids
        assert {question, answer} <= told[completed.conversation_id]
        assert parents[answer] == question
        assert (texts[question], texts[answer]) == seen.texts[run_id]


def check_usage(file: sqlite3.Connection, seen: Seen, noted: Set[str]) -> None:
    """The usage of some runs is there, and sums and records agree with each other and with what clients were told."""
    records = dict(file.execute("SELECT run_id, charged_micros FROM usage_records"))
    assert noted <= records.keys()
    for run_id in seen.completed.keys() & records.keys():
        assert records[run_id] == seen.completed[run_id].charge.amount_micros
    assert file.execute("SELECT sum(runs), sum(charged_micros) FROM usage_hours").fetchone() == (
        len(records),
        sum(records.values()),
    )


def forget_owners(file: sqlite3.Connection) -> None:
    """Makes the processes that used the file look silent for long: a copy of it has no locks beside it."""
    with file:
        silence = int((GONE_SECONDS + 1) * 1_000_000)
        file.execute("UPDATE owners SET seen_time = seen_time - ?", (silence,))
