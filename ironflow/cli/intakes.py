"""`ironflow debounce ...`, `ironflow batches ...` and `ironflow singletons ...`: what waits before
it becomes a run.
"""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec

from ironflow.cli import moments
from ironflow.cli.client import Client, connect, decode, segment
from ironflow.cli.options import VerbGroup, json_option, server_option
from ironflow.cli.output import Column, print_body, print_items, print_table, say
from ironflow.cli.run_ids import short_id
from ironflow.web.wire.intakes import (
    BatchEntryView,
    BatchPage,
    DebounceEntryView,
    PendingView,
    SingletonPage,
)

Entry = DebounceEntryView | BatchEntryView
DEBOUNCE, BATCHES = "/debounce/entries", "/batches"
MOST = 10_000

function_option = click.option("--function", metavar="ID", help="Only of this function.")
key_argument = click.argument("key", default="")
all_option = click.option("--all", "every", is_flag=True, help="Of every key of the function.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done, do nothing.")


@click.group(cls=VerbGroup)
def debounce() -> None:
    """List, start and cancel debounced events that wait.

    Example:
      ironflow debounce ls
    """


@click.group(cls=VerbGroup)
def batches() -> None:
    """List, start and cancel batches that are not full.

    Example:
      ironflow batches ls
    """


@click.group(cls=VerbGroup)
def singletons() -> None:
    """List singletons that hold a run.

    Example:
      ironflow singletons ls
    """


def _entries(client: Client, path: str, function: str | None) -> Sequence[Entry]:
    body = client.get(path, {"function_id": function, "limit": MOST})
    if path == DEBOUNCE:
        return decode(body, list[DebounceEntryView])
    return decode(body, BatchPage).items


def _key(entry: Entry) -> str:
    return entry.debounce_key if isinstance(entry, DebounceEntryView) else entry.batch_key


def _list(path: str, function: str | None, server: str, as_json: bool, empty: str) -> None:
    entries = _entries(connect(server), path, function)
    if as_json:
        print_items([msgspec.json.encode(entry) for entry in entries])
        return
    rows = [
        [
            entry.function_id,
            _key(entry),
            str(entry.events)
            if isinstance(entry, DebounceEntryView)
            else f"{entry.events}/{entry.size}",
            moments.ago(entry.armed_at),
            f"{moments.full(entry.fires_at)} ({moments.ago(entry.fires_at)})",
            short_id(entry.event_id),
        ]
        for entry in entries
    ]
    columns = [
        Column("function", wide=True),
        Column("key", wide=True),
        Column("events", right=True),
        Column("since"),
        Column("starts"),
        Column("newest event", note=True),
    ]
    print_table(columns, rows, empty=empty)


@debounce.command("ls")
@function_option
@server_option
@json_option
def list_debounce(*, function: str | None, server: str, as_json: bool) -> None:
    """List debounced events that wait: how many, and when their run starts.

    Example:
      ironflow debounce ls --function reindex --json
    """
    _list(DEBOUNCE, function, server, as_json, "nothing waits")


@batches.command("ls")
@function_option
@server_option
@json_option
def list_batches(*, function: str | None, server: str, as_json: bool) -> None:
    """List batches that are not full: how many events are in them, and when they start.

    Example:
      ironflow batches ls --function import-rows
    """
    _list(BATCHES, function, server, as_json, "no batch waits")


def _act(
    path: str,
    word: str,
    function: str,
    key: str,
    every: bool,
    dry_run: bool,
    server: str,
    as_json: bool,
) -> None:
    """Start (`fire`) or cancel what waits of a function under a key, or under all."""
    if every and key:
        raise click.UsageError("give a KEY or --all, not both")
    client = connect(server)
    entries = [e for e in _entries(client, path, function) if every or _key(e) == key]
    if not entries and not every:
        known = ", ".join(repr(_key(e)) for e in _entries(client, path, function)[:5])
        hint = f"; there is {known}" if known else ""
        raise click.UsageError(f"nothing waits of {function!r} with the key {key!r}{hint}")
    for entry in entries:
        what = f"{entry.function_id} {_key(entry)!r}: {entry.events} events"
        if dry_run:
            print(f"would {word} {what}")
            continue
        where = f"{path}/{segment(entry.environment_id)}/{segment(entry.function_id)}"
        where += f"/{entry.path_key}"
        body = client.post(f"{where}/fire") if word == "fire" else client.request("DELETE", where)
        if as_json:
            print_body(body)
            continue
        view = decode(body, PendingView)
        print(f"{what} {view.status}" + (f" as run {view.run_id}" if view.run_id else ""))
    if not entries:
        say("nothing waits")


def _add_verb(group: click.Group, path: str, word: str, about: str) -> None:
    """The verb `fire` or `cancel` of a group."""

    @group.command(word, help=about)
    @click.argument("function")
    @key_argument
    @all_option
    @dry_run_option
    @server_option
    @json_option
    def act(
        *, function: str, key: str, every: bool, dry_run: bool, server: str, as_json: bool
    ) -> None:
        _act(path, word, function, key, every, dry_run, server, as_json)


_add_verb(
    debounce,
    DEBOUNCE,
    "cancel",
    """Forget the debounced events of FUNCTION under KEY (none: the empty one): no run comes of
    them.

    Example:
      ironflow debounce cancel reindex org-7
    """,
)
_add_verb(
    debounce,
    DEBOUNCE,
    "fire",
    """Start the run of FUNCTION with the newest event under KEY (none: the empty one) now.

    Example:
      ironflow debounce fire reindex org-7
    """,
)
_add_verb(
    batches,
    BATCHES,
    "cancel",
    """Forget the batch of FUNCTION under KEY (none: the empty one): no run takes its events.

    Example:
      ironflow batches cancel import-rows --all --dry-run
    """,
)
_add_verb(
    batches,
    BATCHES,
    "fire",
    """Start the batch of FUNCTION under KEY (none: the empty one) now, with what it has.

    Example:
      ironflow batches fire import-rows
    """,
)


@singletons.command("ls")
@function_option
@server_option
@json_option
def list_singletons(*, function: str | None, server: str, as_json: bool) -> None:
    """List singletons that hold a run, and the run that takes its place.

    Example:
      ironflow singletons ls --json
    """
    body = connect(server).get("/singletons", {"function_id": function, "limit": MOST})
    page = decode(body, SingletonPage)
    if as_json:
        print_items([msgspec.json.encode(entry) for entry in page.items])
        return
    rows = [
        [entry.function_id, entry.singleton_key, entry.run_id, entry.next_run_id or ""]
        for entry in page.items
    ]
    columns = [
        Column("function", wide=True),
        Column("key", wide=True),
        Column("run", wide=True),
        Column("next run", note=True),
    ]
    print_table(columns, rows, empty="no singleton holds a run")
