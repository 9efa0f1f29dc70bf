"""What a starting server tells its operator."""

from __future__ import annotations

from importlib.metadata import version


def addresses(*, url: str | None, grpc: str | None) -> str:
    """Returns where the server listens."""
    lines = [f"Dragoman {version('dragoman')}"]
    if url:
        lines.append(f"  REST  {url}  (documentation: {url}/docs)")
    if grpc:
        lines.append(f"  gRPC  {grpc}")
    return "\n".join(lines)


def keys(first_key: str | None) -> str:
    """Returns the first key, or how to get one."""
    if first_key:
        return f"  Key   {first_key}  (shown only now; `dragoman keys create` makes more)"
    return "  Key   as before; `dragoman keys create --name NAME` makes another"


def first_request(url: str, key: str | None) -> str:
    """Returns a request that works as it is pasted; without a key it takes the one in `DRAGOMAN_API_KEY`."""
    return f"""\
Ready. Try it:

  curl {url}/v1/chat/completions \\
    -H "Authorization: Bearer {key or "$DRAGOMAN_API_KEY"}" \\
    -H "Content-Type: application/json" \\
    -d '{{"messages": [{{"role": "user", "content": "Say hello."}}]}}'
"""
