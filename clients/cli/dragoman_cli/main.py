"""The command line: options and help. The work is done in the modules beside; each command imports what it needs."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Annotated

import typer

from dragoman_cli.output import CommandError, note, say

app = typer.Typer(
    name="dragoman",
    help="A self-hosted chat orchestration server: any client dialect in, any model out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
keys_app = typer.Typer(name="keys", help="Manage API keys, in the database itself.", no_args_is_help=True)
models_app = typer.Typer(
    name="models", help="Show the catalogue; manage the embedded model's files.", no_args_is_help=True
)
accounts_app = typer.Typer(name="accounts", help="Manage accounts, in the database itself.", no_args_is_help=True)
users_app = typer.Typer(name="users", help="Manage users, in the database itself.", no_args_is_help=True)
credits_app = typer.Typer(name="credits", help="Show and change balances.", no_args_is_help=True)
usage_app = typer.Typer(name="usage", help="Show what runs used, out of the database itself.", no_args_is_help=True)
conversations_app = typer.Typer(
    name="conversations", help="Show, carry and purge stored conversations.", no_args_is_help=True
)
app.add_typer(accounts_app)
app.add_typer(users_app)
app.add_typer(keys_app)
app.add_typer(credits_app)
app.add_typer(usage_app)
app.add_typer(conversations_app)
app.add_typer(models_app)

Config = Annotated[Path | None, typer.Option(help="Configuration file (DRAGOMAN_CONFIG; ./dragoman.toml).")]
DataDir = Annotated[Path | None, typer.Option(help="Folder of the database and the models (DRAGOMAN_DATA_DIR).")]
Host = Annotated[str | None, typer.Option(help="Address to listen on (DRAGOMAN_HOST; 127.0.0.1).")]
Port = Annotated[int | None, typer.Option(help="Port of the REST edge, 0 for any (DRAGOMAN_PORT; 8080).")]
GrpcPort = Annotated[int | None, typer.Option(help="Port of gRPC, 0 for any (DRAGOMAN_GRPC_PORT; 50051).")]


def main() -> None:
    """Runs the command line and exits."""
    # With Python's defaults the collector takes a tenth of a start and a quarter of the CPU of plain requests, and
    # finds nothing: requests leave no cycles behind.
    gc.set_threshold(20_000, 50, 50)
    try:
        app()
    except CommandError as error:
        note(f"error: {error}")
        sys.exit(1)


@app.command()
def up(
    host: Host = None,
    port: Port = None,
    grpc_port: GrpcPort = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Start everything in one process: the core, its gRPC port and the REST edge."""
    from dragoman_cli import serve

    flags = {"server.host": host, "server.port": port, "server.grpc_port": grpc_port, "server.data_dir": data_dir}
    sys.exit(serve.up(config, flags))


@app.command()
def core(host: Host = None, grpc_port: GrpcPort = None, data_dir: DataDir = None, config: Config = None) -> None:
    """Start the core alone: gRPC, no REST."""
    from dragoman_cli import serve

    flags = {"server.host": host, "server.grpc_port": grpc_port, "server.data_dir": data_dir}
    sys.exit(serve.core(config, flags))


@app.command()
def edge(
    core: Annotated[str, typer.Option(help="The core's address: host:port or unix:path.", metavar="ADDR")],
    host: Host = None,
    port: Port = None,
    config: Config = None,
) -> None:
    """Start a REST edge alone, in front of a core."""
    from dragoman_cli import serve

    sys.exit(serve.edge(core, config, {"server.host": host, "server.port": port}))


@app.command()
def chat(
    prompt: Annotated[str | None, typer.Argument(help="What to say; without it, a conversation is held.")] = None,
    model: Annotated[str, typer.Option(help="The model; empty for the server's default.")] = "",
    system: Annotated[str, typer.Option(help="Standing instructions for the model.")] = "",
    url: Annotated[str, typer.Option(help="Base URL of the REST edge.")] = "http://127.0.0.1:8080",
    grpc: Annotated[str | None, typer.Option(help="Address of the gRPC port, used in place of --url.")] = None,
    key: Annotated[str, typer.Option(help="The API key.", envvar="DRAGOMAN_API_KEY", show_default=False)] = "",
) -> None:
    """Chat with a running server; answers stream."""
    from dragoman_cli import chat as chats

    chats.chat(prompt, model=model, system=system, url=url, grpc=grpc, key=key)


@app.command()
def doctor(
    network: Annotated[bool, typer.Option(help="Ask the providers whether they are there and take their keys.")] = True,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Say what is missing or wrong on this machine; exit code 1 if the server would not work."""
    from dragoman_cli import doctor as doctors

    sys.exit(doctors.doctor(config, {"server.data_dir": data_dir}, network=network))


@app.command()
def migrate(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit code 1 if it is not.")] = False,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Bring the database's schema up to date, as every start of a server does."""
    from dragoman_cli import database

    sys.exit(database.migrate(config, {"server.data_dir": data_dir}, check=check))


@app.command()
def backup(
    target: Annotated[Path, typer.Argument(help="The file to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Copy the SQLite database to a file, while a server may be running."""
    from dragoman_cli import database

    database.backup(config, {"server.data_dir": data_dir}, target, force=force)


@app.command()
def vendors() -> None:
    """List the vendors that a provider of the configuration can name."""
    from dragoman_cli import catalogue

    catalogue.list_vendors()


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    say(installed("dragoman"))


Account = Annotated[str, typer.Option(help="The account.")]
NewName = Annotated[str | None, typer.Option(help="The new name.")]
Disabled = Annotated[bool | None, typer.Option("--disable/--enable", help="Whether calls are refused.")]
Role = Annotated[str, typer.Option(help="member, admin (manages the account) or operator (manages all of them).")]
Expires = Annotated[str | None, typer.Option(help="When it stops working: 12h, 30d, or a date.")]


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="What the key is for.")],
    admin: Annotated[bool, typer.Option("--admin", help="The same as --role admin.")] = False,
    role: Role = "member",
    expires: Expires = None,
    account: Account = "default",
    user: Annotated[str, typer.Option(help="Id of the user whose key it is.")] = "",
    scope: Annotated[list[str] | None, typer.Option(help="A scope that it has, such as runs or usage.read.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="A model that it may ask for; * stands for any text.")] = None,
    provider: Annotated[list[str] | None, typer.Option(help="A provider that may serve it.")] = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Make a key and print its secret, which cannot be shown again."""
    from dragoman.v1.account_service_pb2 import KeyGrants
    from dragoman_cli import keys

    grants = KeyGrants(scopes=scope or (), models=model or (), providers=provider or ())
    keys.create(
        config,
        {"server.data_dir": data_dir},
        name=name,
        role="admin" if admin and role == "member" else role,
        expires=expires,
        account=account,
        user=user,
        grants=grants if grants.ByteSize() else None,
    )


@keys_app.command("list")
def list_keys(account: Account = "default", data_dir: DataDir = None, config: Config = None) -> None:
    """List the keys, oldest first."""
    from dragoman_cli import keys

    keys.list_all(config, {"server.data_dir": data_dir}, account)


@keys_app.command("update")
def update_key(
    key_id: Annotated[str, typer.Argument(help="Id of the key, as `keys list` shows it.")],
    name: NewName = None,
    disabled: Disabled = None,
    expires: Expires = None,
    account: Account = "default",
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Change a key; running servers see it within seconds."""
    from dragoman_cli import keys

    flags = {"server.data_dir": data_dir}
    keys.update(config, flags, key_id, account=account, name=name, disabled=disabled, expires=expires)


@keys_app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="Id of the key, as `keys list` shows it.")],
    account: Account = "default",
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Revoke a key for good; running servers see it within seconds."""
    from dragoman_cli import keys

    keys.revoke(config, {"server.data_dir": data_dir}, key_id, account)


AccountId = Annotated[str, typer.Argument(help="Id of the account, as `accounts list` shows it.")]


@accounts_app.command("create")
def create_account(
    name: Annotated[str, typer.Option(help="What it is called.")],
    account_id: Annotated[str, typer.Option("--id", help="Its id, as an identity provider has it.")] = "",
    plan: Annotated[str, typer.Option(help="The plan that it is subscribed to.")] = "",
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Make an account and print its id."""
    from dragoman_cli import accounts

    accounts.create(config, {"server.data_dir": data_dir}, name=name, account_id=account_id, plan=plan)


@accounts_app.command("list")
def list_accounts(data_dir: DataDir = None, config: Config = None) -> None:
    """List the accounts, oldest first."""
    from dragoman_cli import accounts

    accounts.list_all(config, {"server.data_dir": data_dir})


@accounts_app.command("update")
def update_account(
    account_id: AccountId,
    name: NewName = None,
    plan: Annotated[str | None, typer.Option(help="The plan; an empty text ends the subscription.")] = None,
    disabled: Disabled = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Change an account; running servers see it within seconds."""
    from dragoman_cli import accounts

    accounts.update(config, {"server.data_dir": data_dir}, account_id, name=name, plan=plan, disabled=disabled)


@accounts_app.command("delete")
def delete_account(
    account_id: AccountId,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Erase an account and every row of it; only its audit log stays."""
    from dragoman_cli import accounts

    if not yes:
        typer.confirm(f"Erase the account {account_id} with everything in it?", abort=True)
    accounts.delete(config, {"server.data_dir": data_dir}, account_id)


@accounts_app.command("export")
def export_account(account_id: AccountId, data_dir: DataDir = None, config: Config = None) -> None:
    """Write everything that is stored of an account, as lines of JSON."""
    from dragoman_cli import accounts

    accounts.export(config, {"server.data_dir": data_dir}, account_id)


@accounts_app.command("audit")
def show_audit(account_id: AccountId, data_dir: DataDir = None, config: Config = None) -> None:
    """List what administrators did in an account, newest first."""
    from dragoman_cli import accounts

    accounts.audit(config, {"server.data_dir": data_dir}, account_id)


UserId = Annotated[str, typer.Argument(help="Id of the user, as `users list` shows it.")]


@users_app.command("create")
def create_user(
    email: Annotated[str, typer.Option(help="What they log in with.")],
    name: Annotated[str, typer.Option(help="What they are called.")] = "",
    role: Role = "member",
    account: Account = "default",
    password: Annotated[bool, typer.Option(help="Ask for a password, or read it from standard input.")] = True,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Make a user and print their id."""
    from dragoman_cli import users

    flags = {"server.data_dir": data_dir}
    users.create(config, flags, email=email, name=name, role=role, account=account, with_password=password)


@users_app.command("list")
def list_users(account: Account = "default", data_dir: DataDir = None, config: Config = None) -> None:
    """List the users of an account, oldest first."""
    from dragoman_cli import users

    users.list_all(config, {"server.data_dir": data_dir}, account)


@users_app.command("update")
def update_user(
    user_id: UserId,
    name: NewName = None,
    role: Annotated[str | None, typer.Option(help="The new role: member, admin or operator.")] = None,
    disabled: Disabled = None,
    password: Annotated[bool, typer.Option("--password", help="Ask for a new password; all logins end.")] = False,
    account: Account = "default",
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Change a user; running servers see it within seconds."""
    from dragoman_cli import users

    users.update(
        config,
        {"server.data_dir": data_dir},
        user_id,
        account=account,
        name=name,
        role=role,
        disabled=disabled,
        new_password=password,
    )


@users_app.command("delete")
def delete_user(
    user_id: UserId,
    account: Account = "default",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Erase a user with their keys, logins and conversations."""
    from dragoman_cli import users

    if not yes:
        typer.confirm(f"Erase the user {user_id} with everything that is theirs?", abort=True)
    users.delete(config, {"server.data_dir": data_dir}, user_id, account)


Currency = Annotated[str, typer.Option(help="The currency; empty for the server's default.")]
Amount = Annotated[str, typer.Argument(help="How much, for example 100 or 0.25.")]
Note = Annotated[str, typer.Option(help="Why; it stands in the ledger.")]
RequestId = Annotated[str, typer.Option(help="A name of your own: given again, the command changes nothing.")]


@credits_app.command("balance")
def show_balance(account: Account = "default", data_dir: DataDir = None, config: Config = None) -> None:
    """Show what an account has."""
    from dragoman_cli import credits

    credits.balance(config, {"server.data_dir": data_dir}, account)


@credits_app.command("grant")
def grant_credits(
    amount: Amount,
    account: Account = "default",
    currency: Currency = "",
    note: Note = "",
    request_id: RequestId = "",
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Add to a balance."""
    from dragoman_cli import credits

    credits.grant(config, {"server.data_dir": data_dir}, account, amount, currency, note, request_id)


@credits_app.command("adjust", context_settings={"ignore_unknown_options": True})
def adjust_credits(
    amount: Amount,
    account: Account = "default",
    currency: Currency = "",
    note: Note = "",
    request_id: RequestId = "",
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Correct a balance: a negative amount takes away, but never what is reserved."""
    from dragoman_cli import credits

    credits.adjust(config, {"server.data_dir": data_dir}, account, amount, currency, note, request_id)


@credits_app.command("ledger")
def show_ledger(
    account: Account = "default",
    currency: Annotated[str, typer.Option(help="Only this currency.")] = "",
    run: Annotated[str, typer.Option(help="Only what is about this run.")] = "",
    count: Annotated[int, typer.Option(min=1, help="How many entries.")] = 20,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """List the newest entries of an account's ledger."""
    from dragoman_cli import credits

    credits.ledger(config, {"server.data_dir": data_dir}, account, currency, run, count)


Since = Annotated[str, typer.Option(help="From when on: 12h, 30d, 4w, or a date.")]


@usage_app.command("list")
def list_usage(
    account: Account = "default",
    since: Since = "30d",
    model: Annotated[str, typer.Option(help="Only this model.")] = "",
    count: Annotated[int, typer.Option(min=1, help="How many runs.")] = 20,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """List the newest runs of an account with what each used."""
    from dragoman_cli import usage

    usage.list_all(config, {"server.data_dir": data_dir}, account, since, model, count)


@usage_app.command("summary")
def summarize_usage(
    account: Account = "default",
    since: Since = "30d",
    interval: Annotated[str, typer.Option(help="hour, day or all.")] = "day",
    by: Annotated[str, typer.Option(help="By what else: user, key, model, provider, operation.")] = "model",
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Sum up what the runs of an account used."""
    from dragoman_cli import usage

    usage.summarize(config, {"server.data_dir": data_dir}, account, since, interval, by)


@models_app.command("list")
def list_models(
    grpc: Annotated[str | None, typer.Option(help="Ask the server at this address; it also tells health.")] = None,
    key: Annotated[str, typer.Option(help="The API key for it.", envvar="DRAGOMAN_API_KEY", show_default=False)] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: a list of `Model` messages.")] = False,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """List the models that clients may ask for: of a running server, or as they are configured here."""
    from dragoman_cli import catalogue

    catalogue.list_all(config, {"server.data_dir": data_dir}, grpc=grpc, key=key, as_json=as_json)


@models_app.command("files")
def list_files(data_dir: DataDir = None, config: Config = None) -> None:
    """List the files that the embedded model can be made of: those that can be fetched, and those that are here."""
    from dragoman_cli import models

    models.list_all(config, {"server.data_dir": data_dir})


@models_app.command("pull")
def pull_model(
    name: Annotated[str, typer.Argument(help="smollm2, a path, or hf:repo/file[@sha256:…].")] = "smollm2",
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Fetch a model and check it."""
    from dragoman_cli import models

    models.pull(config, {"server.data_dir": data_dir}, name)


User = Annotated[str | None, typer.Option(help="Id of the user; without it, everybody in the account.")]
Named = Annotated[str, typer.Argument(help="Id or short id of the conversation.")]


@conversations_app.command("list")
def list_conversations(
    account: Account = "default",
    user: User = None,
    query: Annotated[str, typer.Option(help="Only those whose title or messages have all these words.")] = "",
    deleted: Annotated[bool, typer.Option("--deleted", help="Those that are deleted and not purged yet.")] = False,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """List conversations, the one that was changed last first."""
    from dragoman_cli import conversations

    whose = conversations.Whose(account, user)
    conversations.list_all(config, {"server.data_dir": data_dir}, whose, query=query, deleted=deleted)


@conversations_app.command("show")
def show_conversation(
    name: Named, account: Account = "default", user: User = None, data_dir: DataDir = None, config: Config = None
) -> None:
    """Print what was said in a conversation."""
    from dragoman_cli import conversations

    conversations.show(config, {"server.data_dir": data_dir}, conversations.Whose(account, user), name)


@conversations_app.command("export")
def export_conversation(
    name: Named, account: Account = "default", user: User = None, data_dir: DataDir = None, config: Config = None
) -> None:
    """Print a conversation as JSON, for `conversations import` here or elsewhere."""
    from dragoman_cli import conversations

    conversations.export(config, {"server.data_dir": data_dir}, conversations.Whose(account, user), name)


@conversations_app.command("import")
def import_conversation(
    file: Annotated[Path, typer.Argument(help="What `conversations export` printed; - reads standard input.")],
    account: Account = "default",
    user: Annotated[str, typer.Option(help="Id of the user whose it will be.")] = "",
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Make a conversation of a file, and print its id."""
    from dragoman_cli import conversations

    conversations.import_(config, {"server.data_dir": data_dir}, conversations.Whose(account, user), file)


@conversations_app.command("purge")
def purge_conversation(
    name: Named, account: Account = "default", user: User = None, data_dir: DataDir = None, config: Config = None
) -> None:
    """Delete a conversation for good."""
    from dragoman_cli import conversations

    conversations.purge(config, {"server.data_dir": data_dir}, conversations.Whose(account, user), name)
