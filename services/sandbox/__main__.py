"""`python -m services.sandbox --port 0 --journal FILE`: says where it listens, and ends on SIGTERM."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path

import uvicorn

from services.sandbox.app import create_app
from services.sandbox.platform import Platform


def main() -> None:
    parser = argparse.ArgumentParser(prog="services.sandbox", description="A small ad platform to practise on.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--journal", type=Path)
    parser.add_argument("--token", default="sandbox")
    options = parser.parse_args()
    platform = Platform(options.journal)
    listener = socket.create_server(("127.0.0.1", options.port))
    config = uvicorn.Config(create_app(platform, options.token), log_level="critical", lifespan="off", timeout_graceful_shutdown=3)
    print(f"sandbox listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])
    platform.close()


if __name__ == "__main__":
    main()
