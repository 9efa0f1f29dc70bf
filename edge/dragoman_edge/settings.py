"""What the edge must know to run. Whoever starts it fills this in from its own configuration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """The knobs of the edge. Times are in seconds, sizes in bytes.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 takes any free one.
        max_request_bytes: Largest request body.
        max_json_depth: Deepest nesting of a JSON body.
        max_header_bytes: Largest request line, and largest single header field; the whole head may have twice that.
        max_connections: Most open connections; more are refused.
        body_timeout: How long a client may take to send a request body.
        idle_timeout: How long a connection may stay open without a request, or take to send a request's head.
        hold_headers: How long a stream's status line waits for the first event, so that an early failure gets its own
            status.
        keep_alive: Silence of a stream after which a comment is sent.
        write_buffer: Unsent bytes of one client above which its run is held back.
        slow_reader_timeout: How long a client whose write buffer is full may read nothing before it is cut off.
        log_requests: Whether each finished request is a line of the log.
        cors_origins: Origins of the web pages that may call; `*` means all.
        drain_timeout: How long answers may go on after `stop` before they are cut off.
        proxy_default_model: Model of the proxy's own route; empty means the core's default model.
        proxy_default_names: Names under which clients ask for it.
        soke_model: What `soke-v1` is; empty means the core's default model.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    max_request_bytes: int = 64 * 1024 * 1024
    max_json_depth: int = 64
    max_header_bytes: int = 32 * 1024
    max_connections: int = 10_000
    body_timeout: float = 30
    idle_timeout: float = 75
    hold_headers: float = 10
    keep_alive: float = 15
    write_buffer: int = 256 * 1024
    slow_reader_timeout: float = 30
    log_requests: bool = False
    cors_origins: tuple[str, ...] = ()
    drain_timeout: float = 20
    proxy_default_model: str = ""
    proxy_default_names: tuple[str, ...] = ("alchemyst-ai/alchemyst-c1",)
    soke_model: str = ""
