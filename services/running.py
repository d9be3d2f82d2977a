"""What runs until it is told to end: all of Trimtab in this process, or one service of production."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import Annotated

import typer

from services.adapters.settings import Settings, from_environment
from services.kernel.errors import Misconfigured

DRAIN = 24.0  # seconds that a service's end may take: who started it kills it a second later (helm: 25)
ENDED = "stopped; nothing that was acknowledged is lost"


def install(app: typer.Typer) -> None:
    """`app` has these commands from now on."""
    app.command()(up)
    app.command()(serve)


def up() -> None:
    """Starts everything in this process and prints a one-time login link; Ctrl-C stops it gracefully."""
    wanted = prepared()
    if wanted.kafka:
        raise Misconfigured("TRIMTAB_KAFKA is set, and `trimtab up` keeps its log in the data folder: unset it")
    import uvloop

    from services.adapters import collector
    from services.adapters.disk import room_named
    from services.embedded import Embedded

    async def run() -> None:
        stop, trimtab, where = told_to_end(), Embedded(wanted), wanted.data / "url"
        try:
            await trimtab.start()
            async with trimtab.serving() as url:
                await trimtab.cli_key()
                where.write_text(url)
                typer.echo(f"Trimtab is up at {url}  (data in {wanted.data}, workspace {wanted.workspace})")
                typer.echo(f"Log in once within the hour: {await trimtab.login()}")
                collector.settle()
                await stop.wait()
                where.unlink(missing_ok=True)  # the port may be somebody else's next, who must not be sent our key
        finally:
            await trimtab.stop()
        typer.echo(ENDED)

    with room_named(wanted.data):
        uvloop.run(run())


def serve(service: Annotated[str, typer.Argument(help="ingest, rules, actions or console")]) -> None:
    """Starts one service of production as a process of its own, on Kafka and PostgreSQL; any number of each share the work. SIGTERM ends it within 25 s."""
    wanted = prepared()
    import uvloop

    from services import production
    from services.adapters import collector

    made = production.service(service, wanted)

    async def run() -> None:
        stopped = asyncio.create_task(told_to_end().wait())
        try:
            async with made.serving() as url:
                starting = asyncio.create_task(made.start())
                typer.echo(f"{service} is at {url}; {url}/readyz says when it is ready")
                await asyncio.wait((stopped, starting), return_when=asyncio.FIRST_COMPLETED)
                if starting.done():
                    await starting
                    collector.settle()
                    await stopped
                end_within(DRAIN, service)
                starting.cancel()
                made.why_not_ready = "stopping"
        finally:
            await made.stop()
        typer.echo(ENDED)

    uvloop.run(run())


def prepared() -> Settings:
    """The settings, with what is logged as they say, and a test's fault planted where one is asked for."""
    import structlog

    from services.adapters.faultpoint import arm_from
    from services.adapters.telemetry import configure

    wanted, planted = from_environment(os.environ), arm_from(os.environ)
    configure(wanted.log_level, wanted.log_format, wanted.secrets())
    if planted:
        structlog.get_logger().warning("a fault is planted", at=planted)
    return wanted


def end_within(seconds: float, service: str) -> None:
    """The process is gone so many seconds from now, drained or not, whatever holds it up: a thread that waits for storage, a loop that stands still."""

    def cut_off() -> None:
        import structlog

        why = "what was under way is taken up by whoever comes next; nothing that was acknowledged is lost"
        structlog.get_logger().error("not drained in time", service=service, seconds=seconds, why=why)
        os._exit(1)

    timer = threading.Timer(seconds, cut_off)
    timer.daemon = True  # it keeps nobody who is done
    timer.start()


def told_to_end() -> asyncio.Event:
    """Set once somebody presses Ctrl-C or asks the process to end."""
    stop = asyncio.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(sign, stop.set)
    return stop
