"""`ironflow endpoints ...`."""

from __future__ import annotations

import click
import msgspec

from ironflow.cli.client import Client, connect, decode
from ironflow.cli.failures import Wrong
from ironflow.cli.options import Duration, Verb, VerbGroup, json_option, server_option
from ironflow.cli.output import Column, print_items, print_table
from ironflow.web.wire.endpoints import EndpointPage, EndpointRequest, SurveyView


@click.group(cls=VerbGroup)
def endpoints() -> None:
    """List endpoints, and register the functions that they serve.

    Example:
      ironflow endpoints add https://shop.example/ironflow
    """


@endpoints.command("ls")
@server_option
@json_option
def list_endpoints(*, server: str, as_json: bool) -> None:
    """List endpoints: their functions, how busy each is, and its circuit breaker.

    Example:
      ironflow endpoints ls --json | jq -r .url
    """
    page = decode(connect(server).get("/endpoints"), EndpointPage)
    if as_json:
        print_items([msgspec.json.encode(endpoint) for endpoint in page.items])
        return
    rows = [
        [
            endpoint.url,
            function.id,
            str(function.version),
            function.code,
            f"{function.active}/{function.concurrency}",
            str(function.waiting) if function.waiting else "",
            f"{function.timeout:g} s",
            function.breaker,
        ]
        for endpoint in page.items
        for function in endpoint.functions
    ]
    columns = [
        Column("endpoint", wide=True),
        Column("function"),
        Column("version", right=True),
        Column("code"),
        Column("calls", right=True),
        Column("waiting", right=True),
        Column("timeout", right=True),
        Column("breaker"),
    ]
    print_table(columns, rows, empty="no endpoints; `ironflow endpoints add URL` registers one")


_TIMEOUT = click.option("--timeout", type=Duration(), help="Of one call (default: 10s).")
_CONCURRENCY = click.option("--concurrency", type=click.IntRange(1, 100_000),
                            help="Calls at once, of each function (default: 10).")  # fmt: skip
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Only say what would change.")


@endpoints.command("add", cls=Verb)
@click.argument("url")
@_TIMEOUT
@_CONCURRENCY
@_DRY_RUN
@server_option
@json_option
def add(
    *,
    url: str,
    timeout: float | None,
    concurrency: int | None,
    dry_run: bool,
    server: str,
    as_json: bool,
) -> None:
    """Ask an endpoint what it serves, and register that.

    The server asks, with a signed request, and takes only an answer that is signed with its key.

    Examples:
      ironflow endpoints add https://shop.example/ironflow --concurrency 50
      ironflow endpoints add https://shop.example/ironflow --dry-run
    """
    request = EndpointRequest(url=url, timeout=timeout, concurrency=concurrency, dry_run=dry_run)
    _print([_ask(connect(server), request)], as_json)


@endpoints.command("sync", cls=Verb)
@click.argument("urls", nargs=-1, metavar="[URL]...")
@_DRY_RUN
@server_option
@json_option
def sync(*, urls: tuple[str, ...], dry_run: bool, server: str, as_json: bool) -> None:
    """Ask endpoints again (all of ours, if none is named) and register what has changed.

    Example:
      ironflow endpoints sync
    """
    client = connect(server)
    surveys = [
        _ask(client, EndpointRequest(url=url, dry_run=dry_run)) for url in urls or _ours(client)
    ]
    _print(surveys, as_json)


@endpoints.command("check", cls=Verb)
@click.argument("urls", nargs=-1, metavar="[URL]...")
@server_option
@json_option
def check(*, urls: tuple[str, ...], server: str, as_json: bool) -> int:
    """Say where endpoints differ from what is registered; exit code 1 when one does.

    Example:
      ironflow endpoints check || ironflow endpoints sync
    """
    client = connect(server)
    surveys = [
        _ask(client, EndpointRequest(url=url, dry_run=True)) for url in urls or _ours(client)
    ]
    _print(surveys, as_json)
    return 1 if any(survey.drifts for survey in surveys) else 0


def _ours(client: Client) -> list[str]:
    """The endpoints that can say what they serve. Raises `Wrong` when there is none."""
    page = decode(client.get("/endpoints"), EndpointPage)
    urls = [endpoint.url for endpoint in page.items if endpoint.reports == "commands"]
    if not urls:
        raise Wrong("URL", "no endpoint is registered that says what it serves; name one")
    return urls


def _ask(client: Client, request: EndpointRequest) -> SurveyView:
    return decode(client.post("/endpoints", request), SurveyView)


_SAID = {
    "new": "is new",
    "changed": "has changed",
    "same": "is as registered",
    "gone": "is served no more; it stays registered",
}


def _print(surveys: list[SurveyView], as_json: bool) -> None:
    if as_json:
        print_items([msgspec.json.encode(survey) for survey in surveys])
        return
    rows = [
        [
            survey.url,
            one.function_id,
            _SAID.get(one.change, f"was at {one.before}"),
            one.code or "",
            one.registered or "",
        ]
        for survey in surveys
        for one in survey.differences
    ]
    columns = [
        Column("endpoint", wide=True),
        Column("function"),
        Column("difference"),
        Column("code there"),
        Column("code registered"),
    ]
    print_table(columns, rows, empty="these endpoints serve nothing")
    if surveys and not surveys[0].applied and any(survey.drifts for survey in surveys):
        click.echo("nothing was registered; `ironflow endpoints sync` does", err=True)
