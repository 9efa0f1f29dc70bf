"""Shows, carries and purges conversations, in the database itself, whether a server runs or not."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from dragoman.v1.message_pb2 import Message, Role
from dragoman_cli.identity import all_pages, date_of
from dragoman_cli.output import CommandError, say, table
from dragoman_cli.stores import configured_store
from dragoman_server.caller import Caller
from dragoman_server.conversations.service import Conversations, wanted_filter
from dragoman_server.errors import NotFound
from dragoman_server.paging import MAX_PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

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


def list_all(config: Path | None, flags: Mapping[str, object], whose: Whose, *, query: str, deleted: bool) -> None:
    """Prints a table of conversations: for each user, the one that was changed last first.

    Raises:
        CommandError: If the database cannot be read, or the query is too long.
    """

    async def work() -> list[ConversationRecord]:
        async with _open(config, flags, whose) as (conversations, callers):
            wanted = wanted_filter(query=query, deleted=deleted)
            found: list[ConversationRecord] = []
            for caller in callers:
                found += await all_pages(partial(_page, conversations, caller, wanted))
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
        async with _open(config, flags, whose) as (conversations, callers):
            caller = await _holder(conversations, callers, name)
            return await all_pages(partial(_messages, conversations, caller, name))

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
        async with _open(config, flags, whose) as (conversations, callers):
            return await conversations.export(await _holder(conversations, callers, name), name)

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
        async with _open(config, flags, whose) as (conversations, _):
            caller = Caller(whose.account, key_id="", user_id=whose.user or "")
            return (await conversations.import_(caller, data)).id

    say(asyncio.run(work()))


def purge(config: Path | None, flags: Mapping[str, object], whose: Whose, name: str) -> None:
    """Deletes a conversation for good, whether it was deleted before or not.

    Raises:
        CommandError: If there is no such conversation.
    """

    async def work() -> None:
        async with _open(config, flags, whose) as (conversations, callers):
            for caller in callers:
                try:
                    gone = await conversations.delete(caller, name, purge=True)
                except NotFound:
                    continue
                say(f"Purged {gone.id} ({gone.title}).")
                return
            raise NotFound(f"conversation {name!r} does not exist")

    asyncio.run(work())


@asynccontextmanager
async def _open(
    config: Path | None, flags: Mapping[str, object], whose: Whose
) -> AsyncIterator[tuple[Conversations, Sequence[Caller]]]:
    """Lends the conversations of the configured database, and the callers whose conversations are meant."""
    async with configured_store(config, flags) as (store, settings):
        users = [whose.user]
        if whose.user is None:
            users = [owner.user_id for owner in await store.conversations.owners(whose.account)]
        callers = [Caller(whose.account, key_id="", user_id=user or "") for user in users]
        yield Conversations(store.conversations, settings.conversations), callers


async def _holder(conversations: Conversations, callers: Sequence[Caller], name: str) -> Caller:
    """Returns the caller who has a conversation."""
    for caller in callers:
        try:
            await conversations.get(caller, name)
        except NotFound:
            continue
        return caller
    raise NotFound(f"conversation {name!r} does not exist, or is deleted")


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
