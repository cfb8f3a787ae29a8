"""What the server serves while its API is held against its own description."""

from __future__ import annotations

from typing import Any

from ironflow import Context, NonRetryable, function


async def keep(value: Any) -> Any:
    return value


@function(id="echo")
async def echo(ctx: Context, value: Any) -> Any:
    """Gives back what it was given."""
    return await ctx.step.run("keep", keep, value)


@function(id="fails", retry=1)
async def fails(ctx: Context) -> None:
    """Fails."""
    raise NonRetryable("as it should")


@function(id="waits", on="door.>")
async def waits(ctx: Context) -> Any:
    """Waits for an event."""
    return (await ctx.step.wait_for_event("opened", "door.opened")).data


@function(id="nightly", cron="0 3 * * *", timezone="Europe/Berlin", timeout="1h")
async def nightly(ctx: Context) -> None:
    """Has a schedule."""
