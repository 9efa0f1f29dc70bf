"""The settings tree: every knob of the server, with its default and unit. Frozen; made once, at the start.

`configuration.py` fills it from a TOML file, the environment and flags, and explains what is wrong with them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

MIB = 1024 * 1024

Seconds = Annotated[float, Field(gt=0)]
Bytes = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """A part of the tree: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ServerSettings(Section):
    """Where the server listens and keeps its data."""

    host: str = "127.0.0.1"
    """Address of both ports."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port of the REST edge; 0 takes any free one."""
    grpc_port: Annotated[int, Field(ge=0, le=65535)] = 50051
    """Port of the gRPC services; 0 takes any free one."""
    grpc_socket: Path | None = None
    """A Unix socket that serves gRPC too."""
    reflection: bool = True
    """Whether gRPC reflection answers (it shows the contract, no data; it needs no key)."""
    data_dir: Path = Path("~/.local/share/dragoman")
    """Folder of the database and the models."""
    drain_timeout: Seconds = 20
    """How long running answers may go on after SIGTERM before they are cancelled."""


class LimitSettings(Section):
    """What a client may ask of the server. The sizes hold on REST, gRPC and in-process alike."""

    max_request_bytes: Bytes = 64 * MIB
    """Largest request body or message."""
    max_json_depth: Count = 64
    """Deepest nesting of a JSON body."""
    max_header_bytes: Bytes = 32 * 1024
    """Largest request line, and largest single header field."""
    max_connections: Count = 10_000
    """Most open connections of the REST edge; more are closed at once."""
    body_timeout: Seconds = 30
    """How long a client may take to send a request body."""
    idle_timeout: Seconds = 75
    """How long a connection without a request is kept open."""
    max_active_runs: Count = 5_000
    """Most runs at a time; more are refused with OVERLOADED."""


class RunSettings(Section):
    """How runs are kept."""

    ring_events: Count = 20_000
    """Most events kept for one run."""
    ring_bytes: Bytes = 4 * MIB
    """Most bytes of events kept for one run."""
    retention: Annotated[float, Field(ge=0)] = 60
    """Seconds that a run is kept after its end. Events of CANCEL runs without request id go at once."""
    total_bytes: Bytes = 64 * MIB
    """Most bytes of all kept runs together; the oldest finished go first."""
    detach_ttl: Seconds = 60
    """How long a run with a request id goes on alone, if its caller did not say."""
    slow_reader_timeout: Seconds = 30
    """How long a reader may hold back its run before it is dropped."""


class SseSettings(Section):
    """How streams are written."""

    hold_headers: Seconds = 10
    """How long the status line waits for the first event, so that an early failure gets its own status."""
    keep_alive: Seconds = 15
    """Silence after which a comment is sent."""
    write_buffer: Bytes = 256 * 1024
    """Unsent bytes of one client above which its run is held back."""


class CorsSettings(Section):
    """Which web pages may call the REST edge."""

    origins: tuple[str, ...] = ()
    """Allowed origins; `*` means all. Empty means none: no CORS headers are sent."""


class StoreSettings(Section):
    """Where keys are kept."""

    url: SecretStr | None = None
    """`sqlite:///path` or `postgresql://…`; unset means `dragoman.db` in the data folder."""


class LocalSettings(Section):
    """The embedded model."""

    enabled: bool = True
    """Whether it is loaded at all."""
    model: str = "smollm2"
    """`smollm2`, a path of a GGUF file, or `hf:repo/file`."""
    context_tokens: Count = 2048
    """Context of each request, in tokens."""
    parallel: Count = 4
    """Requests that are generated at a time; more wait."""
    threads: Annotated[int, Field(ge=0)] = 0
    """Threads of the model; 0 takes the number of cores less one, which the server itself needs."""


class ProviderSettings(Section):
    """A provider of models; they are reachable as `<name>/<upstream model>`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    """Unique; `local` is taken by the embedded model."""
    dialect: Literal["openai_chat", "scripted"]
    """Which wire dialect it speaks."""
    base_url: str = ""
    """For example `https://api.openai.com/v1`."""
    api_key: SecretStr | None = None
    """Its key; `env:NAME` and `file:PATH` are read at the start."""
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    """More headers of every request."""
    connect_timeout: Seconds = 10
    """Until a connection stands."""
    first_event_timeout: Seconds = 120
    """Until the first byte of the answer."""
    idle_timeout: Seconds = 60
    """Between two pieces of a stream; keep-alives count as silence."""
    total_timeout: Seconds = 900
    """For the whole answer."""
    max_connections: Count = 1024
    """Most connections at a time."""


class ModelSettings(Section):
    """A model id that clients may ask for."""

    id: Annotated[str, Field(min_length=1, max_length=256)]
    """The id, for example `fast`."""
    provider: str
    """Name of a provider."""
    upstream_model: str
    """The provider's own name of the model."""
    owner: str = ""
    """Who made it; empty means the provider."""
    context_length: Annotated[int, Field(ge=0)] = 0
    """Most tokens of prompt and answer together; 0 means unknown."""


class LogSettings(Section):
    """What the server says of itself."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least important level that is written."""
    format: Literal["auto", "console", "json"] = "auto"
    """`auto`: for people on a terminal, JSON elsewhere."""


class Settings(Section):
    """The whole tree."""

    server: ServerSettings = ServerSettings()
    limits: LimitSettings = LimitSettings()
    runs: RunSettings = RunSettings()
    sse: SseSettings = SseSettings()
    cors: CorsSettings = CorsSettings()
    store: StoreSettings = StoreSettings()
    local: LocalSettings = LocalSettings()
    log: LogSettings = LogSettings()
    providers: tuple[ProviderSettings, ...] = ()
    models: tuple[ModelSettings, ...] = ()
    default_model: str = ""
    """Model of requests that name none; empty means the embedded one, or else the first configured."""
