"""The functions of `kill_app` behind HTTP: `python endpoint_app.py aiohttp|flask|asgi PORT`."""

import asyncio
import sys

from kill_app import child, mixed

from ironflow import Endpoint

endpoint = Endpoint([mixed, child], signing_key="crash-key", budget=2.0)


def main(framework: str, port: int) -> None:
    """Serve until killed."""
    if framework == "aiohttp":
        from aiohttp import web

        app = web.Application(client_max_size=2**25)
        app.router.add_route("*", "/ironflow", endpoint.aiohttp)
        web.run_app(app, host="127.0.0.1", port=port, print=None)
    elif framework == "flask":
        from flask import Flask
        from werkzeug.middleware.dispatcher import DispatcherMiddleware
        from werkzeug.serving import run_simple

        app = Flask("crash")
        wsgi = DispatcherMiddleware(app.wsgi_app, {"/ironflow": endpoint.wsgi})
        run_simple("127.0.0.1", port, wsgi, threaded=True)
    else:
        import uvicorn

        uvicorn.run(endpoint.asgi, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    if sys.argv[1] == "register":
        asyncio.run(endpoint.register(sys.argv[2], sys.argv[3], concurrency=8))
    else:
        main(sys.argv[1], int(sys.argv[2]))
