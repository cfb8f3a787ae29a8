"""What the server under test serves itself."""

from ironflow import function


async def keep(value):
    return value


@function(id="double", on="rpc.go")
async def double(ctx, value):
    n = value["n"] if isinstance(value, dict) else value
    return {"n": await ctx.step.run("double", keep, n * 2)}


@function(id="hold")
async def hold(ctx):
    await ctx.step.run("before", keep, 1)
    await ctx.step.wait_for_event("later", "rpc.never")
