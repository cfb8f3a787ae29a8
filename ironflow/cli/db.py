"""`ironflow db ...`: the database file, offline."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ironflow.cli.failures import Failed, Wrong
from ironflow.cli.options import Duration, VerbGroup, json_option
from ironflow.cli.output import print_fields, print_value, say
from ironflow.cli.settings import config_option, db_option, read_settings
from ironflow.core.durations import to_micros

if TYPE_CHECKING:
    from ironflow.storage.ports import RetentionRule, Retired, StoreInfo


class Vacuumed(msgspec.Struct, kw_only=True):
    """What `db vacuum --json` prints: counts of what is (or, dry, would be) deleted; bytes."""

    dry_run: bool
    runs: int
    events: int
    entries: int
    blobs: int
    blob_bytes: int
    size_before: int | None = None
    size_after: int | None = None


@click.group(cls=VerbGroup)
def db() -> None:
    """Look after the database: back up, restore, check, export, vacuum.

    The file is that of `serve`: --db, IRONFLOW_DB, or the settings file. info,
    backup, check and export also work while a server has it open.

    Example:
      ironflow db backup nightly.db
    """


def _path(flag: str | None, config: str | None) -> str:
    path = read_settings({"db": flag}, config).settings.db
    if path == "memory":
        raise Wrong("--db", "is `memory`: there is no file to look after")
    return path


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on stderr, where that is a terminal; called with done and total."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from ironflow.cli.output import console

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)


@db.command("info")
@db_option
@config_option
@json_option
def info(*, db: str | None, config: str | None, as_json: bool) -> None:
    """Show what is in the database: size, schema, rows.

    Example:
      ironflow db info --json
    """
    from ironflow.storage.maintenance.files import database_info

    _print_info(database_info(_path(db, config)), as_json)


def _print_info(facts: StoreInfo, as_json: bool) -> None:
    if as_json:
        print_value(facts)
        return
    print_fields(
        [
            ("file", facts.url),
            ("size", format_size(facts.size)),
            ("log", format_size(facts.wal_size)),
            ("schema", str(facts.schema_version)),
            ("last seq", str(facts.last_seq)),
            *((f"{table}", f"{count} rows") for table, count in facts.rows.items()),
        ]
    )


@db.command("backup")
@click.argument("target", type=click.Path())
@db_option
@config_option
@json_option
def backup(*, target: str, db: str | None, config: str | None, as_json: bool) -> None:
    """Copy the database to the new file TARGET, as of this moment, also while a server writes.

    Example:
      ironflow db backup /backups/ironflow-monday.db
    """
    from ironflow.storage.maintenance import files as maintenance

    with progress("backing up") as report:
        copy = maintenance.backup(_path(db, config), target, report)
    if as_json:
        print_value(copy)
    else:
        print(f"{copy.url}: {format_size(copy.size)}, last seq {copy.last_seq}")


@db.command("restore")
@click.argument("source", metavar="BACKUP")
@db_option
@config_option
@json_option
def restore(*, source: str, db: str | None, config: str | None, as_json: bool) -> None:
    """Put a copy of BACKUP in the place of the database; what was there is kept beside it.

    Stop the server first. Runs go on from where they stood in the backup.

    Example:
      ironflow db restore /backups/ironflow-monday.db
    """
    from ironflow.storage.maintenance import restore as restoring

    with progress("restoring") as report:
        info, before = restoring.restore(_path(db, config), source, report)
    if as_json:
        print_value({**msgspec.structs.asdict(info), "before": before})
        return
    print(f"{info.url}: {format_size(info.size)}, last seq {info.last_seq}")
    if before is not None:
        print(f"the database before is {before}")


@db.command("check")
@db_option
@config_option
@json_option
def check(*, db: str | None, config: str | None, as_json: bool) -> None:
    """Check every page of the file and everything that ironflow relies on in it.

    Also that what lists, timers, waiters and messages say of every run is what its
    journal says. Exit code 1 when something is wrong.

    Example:
      ironflow db check
    """
    from ironflow.actors.audit import check_store
    from ironflow.storage.maintenance import files as maintenance
    from ironflow.storage.maintenance.picture import picture_of

    path = _path(db, config)
    with progress("checking") as report:
        findings = maintenance.check(path, report).findings
    old = maintenance.outdated(path) if not findings else None
    if old is not None:
        say(f"{old}; what its lists say of each run is compared from then on")
    elif not findings:  # a file that is whole can still say two different things
        with picture_of(path) as picture:
            findings = [f"{found.subject} {found.message}" for found in check_store(picture)]
    if as_json:
        print_value({"ok": not findings, "findings": findings})
    else:
        for finding in findings:
            print(finding)
        if not findings:
            print(f"{path} is whole")
    if findings:
        raise Failed(
            "" if as_json else f"{path} is damaged; restore a backup, or export what is left"
        )


@db.command("export")
@click.option("-o", "--output", metavar="FILE", help="Write there (a new file), not to stdout.")
@db_option
@config_option
def export(*, output: str | None, db: str | None, config: str | None) -> None:
    """Write the whole database as NDJSON, a line for each row.

    Examples:
      ironflow db export -o all.ndjson
      ironflow db export | gzip > all.ndjson.gz
    """
    from ironflow.storage.maintenance.ndjson import export_ndjson

    path = _path(db, config)
    if output is None:
        if sys.stdout.isatty():
            raise Wrong("--output", "name a file, or send stdout somewhere else than a terminal")
        with progress("exporting") as report:
            rows = export_ndjson(path, sys.stdout.buffer, report)
    else:
        rows = _export_file(path, output)
    say(f"{rows} rows exported")


def _export_file(path: str, output: str) -> int:
    from ironflow.storage.maintenance.ndjson import export_ndjson

    part = f"{output}.part"
    try:
        if os.path.exists(output):
            raise Wrong("--output", f"{output} exists already")
        with progress("exporting") as report, open(part, "wb") as out:
            rows = export_ndjson(path, out, report)
        os.replace(part, output)
    except OSError as error:
        raise Failed(f"cannot write {output}: {error.strerror}") from error
    finally:
        if os.path.exists(part):
            os.unlink(part)
    return rows


@db.command("import")
@click.argument("source", metavar="FILE|-")
@db_option
@config_option
def import_(*, source: str, db: str | None, config: str | None) -> None:
    """Make a new database from an export; it appears whole or not at all.

    Example:
      ironflow db import all.ndjson --db fresh.db
    """
    from ironflow.storage.maintenance.ndjson import import_ndjson

    path = _path(db, config)
    if source == "-":
        with progress("importing") as report:
            rows = import_ndjson(path, sys.stdin.buffer, report)
    else:
        try:
            lines = open(source, "rb")  # noqa: SIM115 - closed below; only opening may be the user's mistake
        except OSError as error:
            raise Wrong("FILE", f"cannot read {source!r}: {error.strerror}") from error
        with lines, progress("importing") as report:
            rows = import_ndjson(path, lines, report)
    say(f"{rows} rows imported into {path}")


@db.command("vacuum")
@click.option("--keep-runs-for", type=Duration(), help="Delete ended runs older than this.")
@click.option(
    "--keep-runs",
    type=click.IntRange(0),
    metavar="N",
    help="Of each ending keep the N newest runs.",
)
@click.option("--keep-events-for", type=Duration(), help="Delete events older than this.")
@click.option(
    "--keep-events", type=click.IntRange(0), metavar="N", help="Keep the N newest events."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@db_option
@config_option
@json_option
def vacuum(
    *,
    keep_runs_for: float | None,
    keep_runs: int | None,
    keep_events_for: float | None,
    keep_events: int | None,
    dry_run: bool,
    yes: bool,
    db: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """Delete what retention no longer keeps, and give its space back to the file system.

    Without options the retention of the settings holds (keep_completed and so on).
    Unfinished runs always stay. Needs the database for itself: stop the server first
    (a server applies its own retention as it goes).

    Examples:
      ironflow db vacuum --dry-run --keep-runs-for 30d
      ironflow db vacuum --keep-runs 10000 --yes
    """  # fmt: skip
    path = _path(db, config)
    from ironflow.storage.maintenance import files as maintenance

    if dry_run:
        maintenance.require_newest(path)  # to open it would migrate it
    elif not os.path.isfile(path):
        raise Failed(f"no database {os.path.abspath(path)!r}")
    rules = _rules(keep_runs_for, keep_runs, keep_events_for, keep_events)
    if not rules:
        from ironflow.assembly import retention_rules

        rules = retention_rules(read_settings({"db": db}, config).settings)
    found = asyncio.run(_retire(path, rules, dry_run=True))
    if not dry_run and not yes:
        _confirm(path, found)
    if dry_run:
        _print_vacuumed(Vacuumed(dry_run=True, **msgspec.structs.asdict(found)), as_json)
        return
    with progress("vacuuming"):
        found = asyncio.run(_retire(path, rules, dry_run=False))
        before, after = maintenance.vacuum(path)
    _print_vacuumed(
        Vacuumed(
            dry_run=False, size_before=before, size_after=after, **msgspec.structs.asdict(found)
        ),
        as_json,
    )


def _rules(
    runs_for: float | None, runs: int | None, events_for: float | None, events: int | None
) -> list[RetentionRule]:
    from ironflow.storage.ports import RetentionRule
    from ironflow.storage.retention import ENDED, EVENTS

    rules: list[RetentionRule] = []
    if runs_for is not None or runs is not None:
        age = None if runs_for is None else to_micros(runs_for)
        rules += [RetentionRule(kind=kind, max_age=age, max_count=runs) for kind in ENDED]
    if events_for is not None or events is not None:
        age = None if events_for is None else to_micros(events_for)
        rules.append(RetentionRule(kind=EVENTS, max_age=age, max_count=events))
    return rules


async def _retire(path: str, rules: list[RetentionRule], *, dry_run: bool) -> Retired:
    from ironflow.core.clock import SystemClock
    from ironflow.storage.sqlite.store import open_sqlite

    store = await open_sqlite(path)
    try:
        return await store.retire(rules, SystemClock().now(), dry_run)
    finally:
        await store.close()


def _confirm(path: str, found: Retired) -> None:
    if not sys.stdin.isatty():
        raise Wrong("--yes", "is needed where nobody can be asked (or --dry-run to look first)")
    question = f"Delete {_counts(found)} from {path}, for good?"
    if not click.confirm(question, default=False, err=True):
        raise Failed("nothing was deleted")


def _print_vacuumed(found: Vacuumed, as_json: bool) -> None:
    if as_json:
        print_value(found)
        return
    verb = "would be deleted" if found.dry_run else "deleted"
    print(f"{_counts(found)} {verb}")
    if found.size_before is not None and found.size_after is not None:
        print(f"size {format_size(found.size_before)} -> {format_size(found.size_after)}")


def _counts(found: Any) -> str:
    return (
        f"{found.runs} runs, {found.events} events, {found.entries} journal entries, "
        f"{found.blobs} large values ({format_size(found.blob_bytes)})"
    )


def format_size(count: int) -> str:
    """Bytes for people: `1.5 MiB`."""
    if count < 1024:
        return f"{count} B"
    size, units = count / 1024, ["KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.1f} {units[0]}"
