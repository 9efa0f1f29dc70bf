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
    """Largest request line, and largest single header field; the whole head may have twice that."""
    max_connections: Count = 10_000
    """Most open connections of the REST edge; more are answered with 503 and closed."""
    body_timeout: Seconds = 30
    """How long a client may take to send a request body."""
    idle_timeout: Seconds = 75
    """How long a connection without a request is kept open, and how long the head of a request may take."""
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
    """The database."""

    url: SecretStr | None = None
    """`sqlite:///path` or `postgresql://…`; unset means `dragoman.db` in the data folder."""
    pool_size: Count = 10
    """Most connections of a core to PostgreSQL, beside the one that writes the ledger."""
    statement_timeout: Annotated[float, Field(ge=0)] = 30
    """Seconds that PostgreSQL may take for a statement of a core; 0 means any time. Migrations always have that."""


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
    embeddings: Literal["off", "first_use", "start"] = "first_use"
    """Whether texts are turned into vectors, and when the memory for that is taken."""
    embedding_model: str = ""
    """The model for that, named like `model`; empty means `model`."""
    embedding_tokens: Count = 512
    """Tokens of the longest text; memory grows with it, to 0.8 GB at 2,048 with the default model."""
    pooling: Literal["mean", "cls", "last"] = "mean"
    """How the vectors of a text's tokens become one; models that are made for vectors say which is theirs."""


class QuirkSettings(Section):
    """How the server departs from its dialect, where that differs from what is known of its vendor."""

    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    """The field of a chat completion that limits its tokens."""
    developer_role: bool | None = None
    """Whether messages of a chat completion may have the role `developer`; if not, they are sent as `system`."""
    thoughts_field: str | None = None
    """The field of a chat completion's message that takes thoughts of the past; empty if there is none."""
    stream_usage: bool | None = None
    """Whether streams are asked for their usage with `stream_options`; some servers refuse that."""
    base64_embeddings: bool | None = None
    """Whether vectors may be asked for in base64."""
    max_embedding_inputs: Count | None = None
    """Most inputs of one request for vectors; more are sent in several."""
    unsupported: tuple[str, ...] | None = None
    """Fields that it does not know, as paths in the contract's `ChatSpec`, for example `sampling.logit_bias`."""


class ProviderSettings(Section):
    """A provider of models; they are reachable as `<name>/<upstream model>`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    """Unique; `local` is taken by the embedded model, `proxy` by servers that requests name."""
    vendor: str = ""
    """A vendor of the built-in list, for example `anthropic`: gives dialect, address and quirks."""
    dialect: Literal["", "openai_chat", "anthropic_messages", "gemini", "plugin", "litellm", "scripted"] = ""
    """Which wire dialect it speaks; empty means the vendor's."""
    base_url: str = ""
    """For example `https://api.openai.com/v1`; empty means the vendor's. For a plugin: `host:port` or `unix:PATH`."""
    api_key: SecretStr | None = None
    """Its key; `env:NAME` and `file:PATH` are read at the start."""
    auth: Literal["", "bearer", "x-api-key", "api-key", "x-goog-api-key", "none"] = ""
    """How the key is sent; empty means as the vendor or the dialect has it."""
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
    max_concurrency: Annotated[int, Field(ge=0)] = 0
    """Most generations at a time for each of its models; more wait in a queue. 0 means no bound."""
    max_queue: Annotated[int, Field(ge=0)] = 100
    """Most generations that wait for each of its models; more are refused with OVERLOADED."""
    queue_timeout: Seconds = 30
    """How long a generation may wait in the queue."""
    quirks: QuirkSettings = QuirkSettings()


class TargetSettings(Section):
    """One way to serve a model."""

    provider: str
    """Name of a provider."""
    upstream_model: str
    """The provider's own name of the model."""
    weight: Count = 1
    """Its share among targets of the same order, with strategy `weighted`."""
    order: Annotated[int, Field(ge=0)] = 0
    """Rank: a target is asked only when none of a lower order can serve."""


class PriceSettings(Section):
    """What a model costs, in millionths of the currency for a million tokens."""

    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    """ISO 4217 code."""
    input_micros: Annotated[int, Field(ge=0)]
    """Tokens read."""
    output_micros: Annotated[int, Field(ge=0)]
    """Tokens written."""
    cached_input_micros: Annotated[int, Field(ge=0)] = 0
    """Tokens read from the provider's cache; 0 means that they are not told apart."""


class RangeSettings(Section):
    """From where to where a number may be, both ends included."""

    min: float
    """Least value."""
    max: float
    """Greatest value."""


SamplingName = Literal[
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "max_output_tokens",
]
ModalityName = Literal["text", "audio", "image", "video", "file"]
CapabilityName = Literal[
    "chat",
    "embeddings",
    "tools",
    "parallel_tool_calls",
    "json_schema",
    "json_object",
    "logprobs",
    "reasoning",
    "vision",
]
ProfileName = Literal["general", "coding", "reasoning"]


class ModelSettings(Section):
    """A model id that clients may ask for: who serves it, and what about it differs from the built-in catalogue."""

    id: Annotated[str, Field(min_length=1, max_length=256)]
    """The id, for example `fast`."""
    provider: str = ""
    """Name of a provider, if there is one target only."""
    upstream_model: str = ""
    """The provider's own name of the model, if there is one target only."""
    targets: tuple[TargetSettings, ...] = ()
    """Who serves it, if there are several."""
    strategy: Literal["priority", "weighted", "least_outstanding", "lowest_latency"] = "priority"
    """Which target of the same order is asked first; `priority` takes them as they stand."""
    max_attempts: Annotated[int, Field(ge=0)] = 0
    """Most attempts before the first content, retries and fallbacks included; 0 means `routing.max_attempts`."""
    owner: str = ""
    """Who made it; empty means the id up to its first slash, or the provider."""
    context_length: Annotated[int, Field(ge=0)] = 0
    """Most tokens of prompt and answer together; 0 means unknown."""
    max_output_tokens: Annotated[int, Field(ge=0)] = 0
    """Most tokens of one answer; 0 means unknown."""
    input_modalities: tuple[ModalityName, ...] = ()
    """What it reads; empty means as the catalogue has it."""
    output_modalities: tuple[ModalityName, ...] = ()
    """What it produces; empty means as the catalogue has it."""
    capabilities: dict[CapabilityName, bool] = Field(default_factory=dict)
    """What it can and cannot do, where that differs from the catalogue. What it cannot do is refused or emulated."""
    prices: PriceSettings | None = None
    """What it costs; unset means as the catalogue has it."""
    limits: dict[SamplingName, RangeSettings] = Field(default_factory=dict)
    """Ranges of sampling values that are narrower than the contract's."""
    out_of_range: Literal["reject", "clamp"] = "reject"
    """What happens to sampling values outside of `limits`."""
    defaults: dict[SamplingName, float] = Field(default_factory=dict)
    """Sampling values of requests that leave them open."""
    presets: dict[ProfileName, dict[SamplingName, float]] = Field(default_factory=dict)
    """Sampling values of requests that leave them open, by task profile; they win over `defaults`."""
    unsupported_params: Literal["reject", "report"] = "reject"
    """Whether a request with fields that the model does not know is refused, or answered without them and told so."""
    emulate_json: bool = True
    """Whether JSON answers are validated and asked for again where the model has no JSON mode of its own."""
    remote_images: Literal["pass", "refuse"] = "pass"
    """Whether the provider may be asked to fetch images by their address. This server itself never does."""


class BreakerSettings(Section):
    """When a target that fails is left alone."""

    failures: Count = 5
    """Failures in a row that shut it off."""
    cooldown: Seconds = 10
    """How long it is left alone before one request tries it again; doubles with each failed trial."""
    max_cooldown: Seconds = 120
    """Longest time that it is left alone."""


class RoutingSettings(Section):
    """How requests find a target. Nothing is tried again once the first piece of an answer was passed on."""

    max_attempts: Count = 3
    """Most attempts for one answer, retries and fallbacks included."""
    backoff: Seconds = 0.25
    """Wait before the same target is asked again; doubles each time, with jitter. Another target is asked at once."""
    max_backoff: Seconds = 5
    """Longest such wait. A provider that asks for a longer one (`Retry-After`) is not asked again."""
    total_timeout: Seconds = 900
    """For one answer, all attempts and waits together."""
    breaker: BreakerSettings = BreakerSettings()


class VisionSettings(Section):
    """What images a request may carry. They are checked before any provider sees them."""

    max_images: Count = 20
    """Most images in a request."""
    max_image_bytes: Bytes = 10 * MIB
    """Largest image."""
    max_total_bytes: Bytes = 48 * MIB
    """Most bytes of all images of a request together."""
    max_side: Count = 8192
    """Longest side, in pixels."""
    media_types: tuple[str, ...] = ("image/png", "image/jpeg", "image/gif", "image/webp")
    """Which kinds of images are taken; the bytes must be what they say."""


class ProxySettings(Section):
    """Calls to servers that the caller names. Nothing is called that is not listed."""

    allow: tuple[str, ...] = ()
    """Base URLs that may be called, for example `https://api.openai.com/v1`: with that path and below. Only a host
    whose entry names the port may be at a private address."""
    default_model: str = ""
    """Model of the route `/api/v1/proxy/default`; empty means the server's default model."""
    default_model_names: tuple[str, ...] = ("alchemyst-ai/alchemyst-c1",)
    """Names under which clients must ask for it there."""


class SokeSettings(Section):
    """The dialect of Soke."""

    model: str = ""
    """Model that `soke-v1` stands for; empty means the server's default model."""


class RateSettings(Section):
    """How much may be asked for; 0 means no bound."""

    requests_per_minute: Annotated[int, Field(ge=0)] = 0
    """Requests in a minute."""
    tokens_per_minute: Annotated[int, Field(ge=0)] = 0
    """Tokens in a minute, read and written ones together."""
    concurrent_runs: Annotated[int, Field(ge=0)] = 0
    """Runs at a time."""


class JwtSettings(Section):
    """Access tokens of an identity provider, as `Authorization: Bearer`."""

    issuer: Annotated[str, Field(min_length=1)]
    """The `iss` that they must have."""
    audience: Annotated[str, Field(min_length=1)]
    """What their `aud` must have."""
    hs256_secret: SecretStr | None = None
    """The shared secret, for tokens signed with HS256; at least 32 bytes."""
    public_key: SecretStr | None = None
    """The public key in PEM, for tokens signed with RS256, ES256 or EdDSA; `file:PATH` reads it."""
    jwks_url: str = ""
    """Where the identity provider has its public keys; `https`, or a loopback address."""
    algorithms: tuple[Literal["HS256", "RS256", "ES256", "EdDSA"], ...] = ()
    """Which algorithms are taken; empty means those that the configured keys are for."""
    account_claim: str = "account"
    """The claim that names the account; a token without it is of the subject's own account."""
    scope_claim: str = "scope"
    """The claim that names the scopes: a text with spaces between them, or a list. Without it there is no
    restriction."""
    role_claim: str = "role"
    """The claim that names the role: `member`, `admin`; without it, member. Nobody becomes operator by a token."""
    create_accounts: bool = True
    """Whether an account that a good token names is made when it does not exist yet; else the token is refused."""
    leeway: Annotated[float, Field(ge=0, le=300)] = 30
    """Seconds by which clocks may differ."""


class LoginSettings(Section):
    """Logins with name and password, for installs without an identity provider."""

    enabled: bool = True
    """Whether `/api/v1/auth/login` answers."""
    secret: SecretStr | None = None
    """What access tokens are signed with, at least 32 bytes; unset means a random one, kept in the database."""
    access_ttl: Seconds = 900
    """How long an access token is good."""
    refresh_ttl: Seconds = 30 * 24 * 3600
    """How long a login can be refreshed after it was last used."""
    attempts: Count = 10
    """Failed logins of one name within `window` before more are refused; of all names together, a hundred times as
    many."""
    window: Seconds = 300
    """See `attempts`."""


class AuthSettings(Section):
    """Credentials beside API keys."""

    jwt: JwtSettings | None = None
    """Tokens of an identity provider; unset means that none are taken."""
    login: LoginSettings = LoginSettings()
    """Logins with name and password."""


class CreditPriceSettings(Section):
    """What an operation costs, in millionths of a currency. All parts add up; the first price that fits counts."""

    operation: str = "chat"
    """`chat`, `embeddings`, or `tool:NAME`."""
    model: str = "*"
    """The models it is for: an id, or a pattern where `*` stands for any text."""
    currency: str = ""
    """The currency that it is in; empty means any of them, at the same figure."""
    request_micros: Annotated[int, Field(ge=0)] = 0
    """For each request."""
    input_micros_per_million: Annotated[int, Field(ge=0)] = 0
    """For a million tokens read."""
    cached_input_micros_per_million: Annotated[int, Field(ge=0)] | None = None
    """For a million tokens read from the provider's cache; unset means as all others."""
    output_micros_per_million: Annotated[int, Field(ge=0)] = 0
    """For a million tokens written."""


CurrencyName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]


class CreditSettings(Section):
    """What is charged for work."""

    enabled: bool = False
    """Whether anything is charged."""
    currency: CurrencyName = "credits"
    """The currency of accounts and requests that name none."""
    currencies: tuple[CurrencyName, ...] = ()
    """More currencies that requests may name as their token type, for example `spark` and `sogni`."""
    auto: tuple[CurrencyName, ...] = ()
    """What `auto` and an unnamed token type mean: the first of these that has a price for the model and balance
    enough; empty means `currency`."""
    when_short: Literal["refuse", "lower"] = "refuse"
    """What happens when the balance does not buy the work at its longest: it is refused, or its output limit is
    lowered to what the balance buys."""
    max_output_tokens: Count = 4096
    """The output limit of work where neither the request nor the model has one."""
    charge_failed: bool = False
    """Whether runs are charged for that failed after something was said, by no doing of the caller."""
    wait_for_disk: bool = False
    """Whether every answer waits until its charge is on disk. Else, on SQLite, a charge to what is reserved ahead
    survives its process at once, but a power cut only when it is in the ledger, normally after 0.1 s."""
    prices: tuple[CreditPriceSettings, ...] = ()
    """What things cost; what has no price is free."""
    welcome_micros: Annotated[int, Field(ge=0)] = 0
    """What a new account is granted, in `currency`."""


class PlanSettings(Section):
    """A monthly plan that accounts can be subscribed to."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
    """Its name."""
    currency: CurrencyName | Literal[""] = ""
    """The currency of the quota; empty means `credits.currency`."""
    monthly_micros: Annotated[int, Field(ge=0)] = 0
    """What each month grants."""
    rollover_micros: Annotated[int, Field(ge=0)] = 0
    """The most of what a month's quota left that stays when the next one begins; what was granted otherwise always
    stays."""
    limits: RateSettings = RateSettings()
    """How much its accounts may ask for."""


class RateLimitSettings(Section):
    """How much callers may ask for."""

    storage: SecretStr = SecretStr("memory://")
    """Where requests are counted: `memory://` for one process, `redis://HOST:PORT/N` (or `valkey://`) for several."""
    key: RateSettings = RateSettings()
    """For each key that has no limits of its own."""
    user: RateSettings = RateSettings()
    """For each user."""
    account: RateSettings = RateSettings()
    """For each account that has no limits of its own, nor a plan with some."""


class UsageSettings(Section):
    """What is kept of finished runs."""

    enabled: bool = True
    """Whether anything is."""
    retention_days: Annotated[int, Field(ge=0)] = 90
    """Days that the record of each run is kept; 0 means for ever."""
    sums_retention_days: Annotated[int, Field(ge=0)] = 730
    """Days that the hourly sums are kept; 0 means for ever."""


class AuditSettings(Section):
    """The log of what administrators did."""

    retention_days: Annotated[int, Field(ge=0)] = 0
    """Days that an entry is kept; 0 means for ever. How long evidence is to be kept, and when it must go, is for the
    operator to say: nothing of it goes unless asked for."""


class ConversationSettings(Section):
    """How conversations are kept."""

    purge_after_days: Annotated[float, Field(ge=0)] = 30
    """Days after which deleted ones are gone for good."""
    retention_days: Annotated[float, Field(ge=0)] = 0
    """Days without a change after which they are deleted; 0 means never. Pinned ones stay."""
    max_messages: Count = 10_000
    """Most messages of one."""
    max_bytes: Bytes = 64 * MIB
    """Most bytes of one's messages together; what turns load, and exports hold, is no more than that."""
    max_message_bytes: Bytes = 32 * MIB
    """Most bytes of one message."""
    title: Literal["first_message", "model"] = "first_message"
    """Where the title of an untitled one comes from: the beginning of the first message, or a model that is asked
    for one."""
    title_model: str = ""
    """The model that is asked; empty means that of the run."""


class PersonaSettings(Section):
    """A persona that everybody may name."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
    """The name that requests ask for it by."""
    display_name: str = ""
    """What it is called among people."""
    description: str = ""
    """What it is good for."""
    system_prompt: str = ""
    """The instructions that precede every conversation."""
    model: str = ""
    """The model that answers; empty means the request's."""
    sampling: dict[SamplingName, float] = Field(default_factory=dict)
    """Sampling values of requests that leave them open."""
    tools: tuple[dict[str, object], ...] = ()
    """Function tools that it may call beside the request's, each as `{name, description, parameters}`."""
    greeting: str = ""
    """What it says first, for user interfaces."""


class TracingSettings(Section):
    """OpenTelemetry traces; they need the extra `otel`."""

    enabled: bool = False
    """Whether spans are made and sent."""
    endpoint: str = ""
    """Address of an OTLP collector, for example `http://127.0.0.1:4318`; empty means as the environment says."""
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the traces that begin here and are kept; those that come with `traceparent` follow it."""
    content: bool = False
    """Whether spans hold what was said."""


class LogSettings(Section):
    """What the server says of itself."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least important level that is written."""
    format: Literal["auto", "console", "json"] = "auto"
    """`auto`: for people on a terminal, JSON elsewhere."""
    requests: bool = False
    """Whether each finished request is a line, with ids, route, status, duration, model, provider and tokens."""


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
    routing: RoutingSettings = RoutingSettings()
    vision: VisionSettings = VisionSettings()
    proxy: ProxySettings = ProxySettings()
    soke: SokeSettings = SokeSettings()
    tracing: TracingSettings = TracingSettings()
    auth: AuthSettings = AuthSettings()
    credits: CreditSettings = CreditSettings()
    plans: tuple[PlanSettings, ...] = ()
    rate_limits: RateLimitSettings = RateLimitSettings()
    usage: UsageSettings = UsageSettings()
    audit: AuditSettings = AuditSettings()
    conversations: ConversationSettings = ConversationSettings()
    personas: tuple[PersonaSettings, ...] = ()
    """Personas beside those that ship; one of the same name takes its place."""
    providers: tuple[ProviderSettings, ...] = ()
    models: tuple[ModelSettings, ...] = ()
    default_model: str = ""
    """Model of requests that name none; empty means the embedded one, or else the first configured."""
    default_embedding_model: str = ""
    """Model of embeddings that name none; empty means the first that can."""
