"""Shows, carries and purges conversations, in the database itself, whether a server runs or not."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from dragoman.v1.message_pb2 import Message, Role
from dragoman_cli.identity import all_pages, date_of
from dragoman_cli.output import CommandError, say, table
from dragoman_cli.stores import configured_store
from dragoman_server.accounts.keys import operator
from dragoman_server.audit import audit_entry
from dragoman_server.caller import Caller
from dragoman_server.conversations.service import Conversations, wanted_filter
from dragoman_server.errors import NotFound
from dragoman_server.paging import MAX_PAGE_SIZE
from dragoman_server.store.conversations.records import Owner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from dragoman_server.store.base import Store
    from dragoman_server.store.conversations.records import ConversationRecord, Filter, MessageRecord


@dataclass(frozen=True, slots=True)
class Whose:
    """Whose conversations are meant.

    Attributes:
        account: The account.
        user: The user; None means everybody in the account, an empty text the conversations that are no user's.
    """

    account: str
    user: str | None


@dataclass(frozen=True, slots=True)
class _Desk:
    """An open database.

    Attributes:
        store: The database.
        conversations: The conversations in it.
        callers: Those whose conversations are meant.
    """

    store: Store
    conversations: Conversations
    callers: Sequence[Caller]

    async def find(self, name: str) -> tuple[Caller, ConversationRecord]:
        """Returns a conversation, deleted or not, and whose it is.

        Raises:
            NotFound: If there is none.
            CommandError: If several users have one of this short id.
        """
        owners = {Owner(caller.account_id, caller.user_id): caller for caller in self.callers}
        looked_up = [(owner, await self.store.conversations.get(owner, name.lower())) for owner in owners]
        found = [(owners[owner], record) for owner, record in looked_up if record is not None]
        if not found:
            raise NotFound(f"conversation {name!r} does not exist")
        if len(found) > 1:
            ids = ", ".join(record.id for _, record in found)
            raise CommandError(f"{name} is the short id of several conversations; name one of {ids}")
        return found[0]


def list_all(config: Path | None, flags: Mapping[str, object], whose: Whose, *, query: str, deleted: bool) -> None:
    """Prints a table of conversations: for each user, the one that was changed last first.

    Raises:
        CommandError: If the database cannot be read, or the query is too long.
    """

    async def work() -> list[ConversationRecord]:
        async with _open(config, flags, whose) as desk:
            wanted = wanted_filter(query=query, deleted=deleted)
            found: list[ConversationRecord] = []
            for caller in desk.callers:
                found += await all_pages(partial(_page, desk.conversations, caller, wanted))
            return found

    rows = [
        (c.id, c.user_id or "-", str(c.message_count), date_of(c.update_time), c.title) for c in asyncio.run(work())
    ]
    table(("ID", "USER", "MESSAGES", "CHANGED", "TITLE"), rows)


def show(config: Path | None, flags: Mapping[str, object], whose: Whose, name: str) -> None:
    """Prints what was said in a conversation.

    Raises:
        CommandError: If there is no such conversation.
    """

    async def work() -> list[MessageRecord]:
        async with _open(config, flags, whose) as desk:
            caller, found = await desk.find(name)
            return await all_pages(partial(_messages, desk.conversations, caller, found.id))

    for record in asyncio.run(work()):
        message = Message.FromString(record.body)
        role = Role.Name(message.role).removeprefix("ROLE_").lower()
        moment = datetime.fromtimestamp(record.create_time / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M")
        say(f"[{moment} {role}] {_text(message)}")


def export(config: Path | None, flags: Mapping[str, object], whose: Whose, name: str) -> None:
    """Prints a conversation as JSON.

    Raises:
        CommandError: If there is no such conversation.
    """

    async def work() -> bytes:
        async with _open(config, flags, whose) as desk:
            caller, found = await desk.find(name)
            data = await desk.conversations.export(caller, found.id)
            now = int(time.time() * 1_000_000)
            entry = audit_entry(operator(), whose.account, now, "conversation.export", found.id, user_id=caller.user_id)
            await desk.store.identity.audit.add(entry)
            return data

    say(asyncio.run(work()).decode())


def import_(config: Path | None, flags: Mapping[str, object], whose: Whose, file: Path) -> None:
    """Makes a conversation of a file that `export` wrote, and prints its id; `-` reads standard input.

    Raises:
        CommandError: If the file cannot be read, or is something else.
    """
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror}") from error

    async def work() -> str:
        async with _open(config, flags, whose) as desk:
            caller = Caller(whose.account, key_id="", user_id=whose.user or "")
            return (await desk.conversations.import_(caller, data, operator())).id

    say(asyncio.run(work()))


def purge(config: Path | None, flags: Mapping[str, object], whose: Whose, name: str) -> None:
    """Deletes a conversation for good, whether it was deleted before or not.

    Raises:
        CommandError: If there is no such conversation.
    """

    async def work() -> None:
        async with _open(config, flags, whose) as desk:
            caller, found = await desk.find(name)
            gone = await desk.conversations.delete(caller, found.id, purge=True, by=operator())
            say(f"Purged {gone.id} ({gone.title}).")

    asyncio.run(work())


@asynccontextmanager
async def _open(config: Path | None, flags: Mapping[str, object], whose: Whose) -> AsyncIterator[_Desk]:
    """Lends the configured database."""
    async with configured_store(config, flags, whose.account) as (store, settings):
        users = [whose.user]
        if whose.user is None:
            users = [owner.user_id for owner in await store.conversations.owners(whose.account)]
        callers = [Caller(whose.account, key_id="", user_id=user or "") for user in users]
        yield _Desk(store, Conversations(store.conversations, settings.conversations), callers)


async def _page(
    conversations: Conversations, caller: Caller, wanted: Filter, token: str
) -> tuple[list[ConversationRecord], str]:
    found, following = await conversations.page(caller, wanted, MAX_PAGE_SIZE, token)
    return list(found), following


async def _messages(
    conversations: Conversations, caller: Caller, name: str, token: str
) -> tuple[list[MessageRecord], str]:
    found, following = await conversations.messages(caller, name, MAX_PAGE_SIZE, token)
    return list(found), following


def _text(message: Message) -> str:
    """Returns what a message says, with the kinds of the parts that are no text."""
    said = []
    for part in message.parts:
        kind = part.WhichOneof("kind") or "unknown"
        said.append(part.text.text if kind == "text" else f"<{kind}>")
    return " ".join(said)
