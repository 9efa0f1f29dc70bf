"""The command line: options and help. The work is done in the modules beside; each command imports what it needs."""

from __future__ import annotations

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
app.add_typer(keys_app)
app.add_typer(models_app)

Config = Annotated[Path | None, typer.Option(help="Configuration file (DRAGOMAN_CONFIG; ./dragoman.toml).")]
DataDir = Annotated[Path | None, typer.Option(help="Folder of the database and the models (DRAGOMAN_DATA_DIR).")]
Host = Annotated[str | None, typer.Option(help="Address to listen on (DRAGOMAN_HOST; 127.0.0.1).")]
Port = Annotated[int | None, typer.Option(help="Port of the REST edge, 0 for any (DRAGOMAN_PORT; 8080).")]
GrpcPort = Annotated[int | None, typer.Option(help="Port of gRPC, 0 for any (DRAGOMAN_GRPC_PORT; 50051).")]


def main() -> None:
    """Runs the command line and exits."""
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
def vendors() -> None:
    """List the vendors that a provider of the configuration can name."""
    from dragoman_cli import catalogue

    catalogue.list_vendors()


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    say(installed("dragoman"))


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="What the key is for.")],
    admin: Annotated[bool, typer.Option("--admin", help="Let it manage keys.")] = False,
    expires: Annotated[str | None, typer.Option(help="When it stops working: 12h, 30d, or a date.")] = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Make a key and print its secret, which cannot be shown again."""
    from dragoman_cli import keys

    keys.create(config, {"server.data_dir": data_dir}, name=name, admin=admin, expires=expires)


@keys_app.command("list")
def list_keys(data_dir: DataDir = None, config: Config = None) -> None:
    """List the keys, oldest first."""
    from dragoman_cli import keys

    keys.list_all(config, {"server.data_dir": data_dir})


@keys_app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="Id of the key, as `keys list` shows it.")],
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Revoke a key; running servers see it within seconds."""
    from dragoman_cli import keys

    keys.revoke(config, {"server.data_dir": data_dir}, key_id)


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
