"""`ironflow worker`."""

from __future__ import annotations

import asyncio
import sys
import uuid

import click

from ironflow.cli.failures import Wrong
from ironflow.cli.options import Duration, Verb, server_option


@click.command("worker", cls=Verb)
@click.argument("modules", nargs=-1, required=True, metavar="MODULE.py ...")
@click.option("--concurrency", type=click.IntRange(1, 100_000), default=10, show_default=True,
              help="Bodies that a process runs at once.")  # fmt: skip
@click.option("--processes", type=click.IntRange(1, 256), default=1, show_default=True,
              help="Processes; one that dies is started again after a pause.")  # fmt: skip
@click.option("--heartbeat", type=Duration(0.1, 3600.0), default="10s", show_default=True,
              help="Between two signs of life; after three without one its runs go to others.",
              )  # fmt: skip
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE",
              help="What this worker is, for functions that want some; may be given several times.",
              )  # fmt: skip
@click.option("--id", "worker_id", metavar="ID", help="Name of the worker (default: a new one).")
@click.option("--cancel-grace", type=Duration(), default="2s", show_default=True,
              help="For a step in a process to end when it is asked to, and after SIGTERM.",
              )  # fmt: skip
@click.option("--lifeline", type=int, hidden=True)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text",
              show_default=True, help="Log lines on stderr, for people or for machines.",
              )  # fmt: skip
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]),
              default="info", show_default=True, help="Least severe line to log on stderr.",
              )  # fmt: skip
@server_option
def worker(
    *,
    modules: tuple[str, ...],
    concurrency: int,
    processes: int,
    heartbeat: float,
    labels: tuple[str, ...],
    worker_id: str | None,
    cancel_grace: float,
    lifeline: int | None,
    log_format: str,
    log_level: str,
    server: str,
) -> int:
    """Run the functions of these modules for a server.

    The worker asks the server for work and keeps asking when the server goes away.
    SIGTERM or Ctrl-C lets running steps finish; a second one ends at once.

    Examples:
      ironflow worker jobs.py --server http://10.0.0.5:4200 --concurrency 50
      ironflow worker jobs.py --processes 4 --label gpu=yes
    """
    wanted = parse_labels(labels)
    if processes > 1:
        return supervise(processes, worker_id, prefix=log_format == "text")
    from ironflow.logs import configure_logging
    from ironflow.modules import load_module
    from ironflow.sdk.worker import Worker

    configure_logging(log_format, log_level)
    for module in modules:
        load_module(module)
    made = Worker(
        server,
        concurrency=concurrency,
        labels=wanted,
        worker_id=worker_id,
        heartbeat=heartbeat,
        cancel_grace=cancel_grace,
    )
    made.run(lifeline)
    return 0


def parse_labels(texts: tuple[str, ...]) -> dict[str, str]:
    """`NAME=VALUE` texts as a mapping. Raises `Wrong`."""
    labels = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise Wrong("--label", f"{text!r} is not NAME=VALUE")
        labels[name] = value
    return labels


def supervise(processes: int, worker_id: str | None, *, prefix: bool) -> int:
    """Keep so many processes of this very command line alive until a signal."""
    from ironflow.cli.supervisor import Supervisor
    from ironflow.launch import command

    line = [*command(), *_without(sys.argv[1:], "--processes", "--id")]
    name = worker_id or uuid.uuid4().hex[:12]

    async def main() -> int:
        return await Supervisor(line, name, processes, prefix=prefix).run()

    return asyncio.run(main())


def _without(arguments: list[str], *options: str) -> list[str]:
    """The arguments without these options, however they are spelled."""
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in options:
            skip = True
        elif argument.partition("=")[0] not in options:
            kept.append(argument)
    return kept
