"""The yardstick: a bare relay in one process, aiohttp's client behind aiohttp's server, raw bytes, no parsing.

It authenticates nobody, keeps nothing and understands nothing. What a server costs beyond it is the price of what that
server does.

    python -m benchmarks.relay --port 18081 --upstream http://127.0.0.1:18080
"""

from __future__ import annotations

import argparse
import asyncio

import uvloop
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

_SESSION = web.AppKey("session", ClientSession)
_PATH = "/v1/chat/completions"


async def _serve(port: int, upstream: str) -> None:
    url = upstream + _PATH

    async def relay(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {"Content-Type": request.headers.get("Content-Type", "application/json")}
        async with request.app[_SESSION].post(url, data=body, headers=headers) as answer:
            if answer.content_length is not None:
                text = await answer.read()
                return web.Response(status=answer.status, body=text, content_type=answer.content_type)
            response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.content_type})
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response

    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post(_PATH, relay)
    connector = TCPConnector(limit=0)
    async with ClientSession(connector=connector, timeout=ClientTimeout(total=None), auto_decompress=False) as session:
        app[_SESSION] = session
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
        try:
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()


def main() -> None:
    """Runs the relay by hand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=18081)
    parser.add_argument("--upstream", default="http://127.0.0.1:18080")
    arguments = parser.parse_args()
    uvloop.run(_serve(arguments.port, arguments.upstream))


if __name__ == "__main__":
    main()
