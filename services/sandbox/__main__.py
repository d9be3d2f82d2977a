"""`python -m services.sandbox --port 0 --journal FILE`: says where it listens, and ends on SIGTERM."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path

import uvicorn

from services.sandbox.app import create_app
from services.sandbox.platform import Platform


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="services.sandbox", description="A small ad platform to practise on.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--journal", type=Path)
    parser.add_argument("--token", default="sandbox")
    parser.add_argument("--plain", action="store_true", help="know neither idempotency keys nor versions")
    return parser


def main() -> None:
    options = parser().parse_args()
    platform = Platform(options.journal, options.plain)
    listener = socket.create_server((options.host, options.port))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = uvicorn.Config(create_app(platform, options.token), log_level="critical", lifespan="off", timeout_graceful_shutdown=3)
    print(f"sandbox listening on http://{options.host}:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(config).run(sockets=[listener])
    platform.close()


if __name__ == "__main__":
    main()
