"""Many calls in one gRPC stream: what is ready in several of them travels in one message.

    framing.py    what both ends share
    channel.py    TunnelChannel: the client's end, for stubs and `open_stream`
    calls.py      its calls

The server's end is the servicer of `dragoman.v1.TunnelService`; the proto says what travels.
"""

from dragoman.tunnel.channel import TunnelChannel

__all__ = ["TunnelChannel"]
