"""Verbs that groups of named things share, such as roles and projects: list them, show one, remove
one. What is made of what differs, and stays with its group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import click
import msgspec

from ironflow.cli.client import connect, decode, segment
from ironflow.cli.options import confirm_removal, json_option, removal_options, server_option
from ironflow.cli.output import Column, print_body, print_items, print_table
from ironflow.web.wire.access import Deleted


class Named(Protocol):
    """What the API says of a thing with an id and a name."""

    @property
    def id(self) -> str:
        """What never changes."""

    @property
    def name(self) -> str:
        """What people call it."""


V = TypeVar("V", bound=Named)


@dataclass(frozen=True, slots=True)
class Things(Generic[V]):
    """Things of one kind: `one` is what help calls one of them, `path` where the API has them,
    `row` what a table says of one, and `empty` what is said when there are none.
    """

    group: click.Group
    one: str
    path: str
    view: type[V]
    columns: Sequence[Column]
    row: Callable[[V], list[str]]
    empty: str

    def path_of(self, given: str) -> str:
        """Where the API has the one with this id or name."""
        return f"{self.path}/{segment(given)}"

    def print(self, found: Iterable[V]) -> None:
        """A table of them."""
        print_table(self.columns, [self.row(view) for view in found], empty=self.empty)

    def create(self, server: str, asked: dict[str, Any], *, as_json: bool) -> None:
        """Make one and print its id."""
        body = connect(server).post(self.path, asked)
        if as_json:
            print_body(body)
            return
        print(decode(body, self.view).id)

    def add_list(self, about: str) -> None:
        """The verb `ls`."""

        @self.group.command("ls", help=about)
        @server_option
        @json_option
        def list_things(*, server: str, as_json: bool) -> None:
            items = decode(connect(server).get(self.path), list[msgspec.Raw])
            views = [decode(bytes(item), self.view) for item in items]
            if as_json:
                print_items([bytes(item) for item in items])
                return
            self.print(views)

    def add_show(self, about: str, more: Callable[[V], None] | None = None) -> None:
        """The verb `show`; `more` prints what is no cell of a table."""

        @self.group.command("show", help=about)
        @click.argument("given", metavar=self.one.upper())
        @server_option
        @json_option
        def show_thing(*, given: str, server: str, as_json: bool) -> None:
            body = connect(server).get(self.path_of(given))
            if as_json:
                print_body(body)
                return
            view = decode(body, self.view)
            self.print([view])
            if more is not None:
                more(view)

    def add_remove(self, about: str) -> None:
        """The verb `rm`."""

        @self.group.command("rm", help=about)
        @click.argument("given", metavar=self.one.upper())
        @removal_options
        @server_option
        @json_option
        def remove_thing(
            *, given: str, dry_run: bool, yes: bool, server: str, as_json: bool
        ) -> None:
            self.remove(given, "", server, dry_run=dry_run, yes=yes, as_json=as_json)

    def remove(
        self,
        given: str,
        more: str,
        server: str,
        *,
        dry_run: bool,
        yes: bool,
        as_json: bool,
        query: dict[str, str | int | None] | None = None,
        wait: float = 0.0,
    ) -> None:
        """Remove one, once that is confirmed; `more` says what goes with it, and the server may
        take `wait` seconds longer than for other requests.
        """
        client, path = connect(server), self.path_of(given)
        view = decode(client.get(path), self.view)
        if not confirm_removal(f"{view.id} ({view.name}){more}", dry_run=dry_run, yes=yes):
            return
        body = client.request("DELETE", path, query, wait=wait)
        if as_json:
            print_body(body)
            return
        print(f"{decode(body, Deleted).deleted} is gone")
