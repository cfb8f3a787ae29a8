"""The workflows that the server under test serves; also what `python -m` and the peers are given.

Written as a user writes them: nothing here knows of the tests, but for the gates, which are events.
"""

import asyncio
from typing import Literal

from pydantic import Field

from ironflow.workflows import Context, Workflow, step
from ironflow.workflows.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
)
from ironflow.workflows.server import WorkflowServer


class Greeting(Event):
    """What is said on the way."""

    text: str


class Greet(Workflow):
    """Says hello, loudly if asked."""

    @step
    async def hello(self, ctx: Context, ev: StartEvent) -> Greeting:
        """Finds the words."""
        ctx.write_event_to_stream(Greeting(text="thinking"))
        return Greeting(text=f"hello {ev.get('name', 'world')}")

    @step
    async def shout(self, ctx: Context, ev: Greeting) -> StopEvent:
        """Says them."""
        ctx.write_event_to_stream(ev)
        return StopEvent(result=ev.text.upper())


class Order(StartEvent):
    """An order to be checked."""

    customer: str = Field(description="Who pays")
    amount: int = Field(default=1, ge=1, le=1000, description="How many")
    priority: Literal["low", "normal", "high"] = "normal"
    express: bool = False


class Checked(Event):
    customer: str
    amount: int


class Receipt(StopEvent):
    """What the customer gets."""

    customer: str
    total: float


class Checkout(Workflow):
    """Takes an order through its check to a receipt."""

    @step
    async def check(self, ctx: Context, ev: Order) -> Checked:
        await ctx.store.set("customer", ev.customer)
        return Checked(customer=ev.customer, amount=ev.amount)

    @step
    async def charge(self, ctx: Context, ev: Checked) -> Receipt:
        return Receipt(customer=ev.customer, total=ev.amount * 9.5)


class Approval(InputRequiredEvent):
    prefix: str


class Decision(HumanResponseEvent):
    """The human's answer."""

    response: str


class Approve(Workflow):
    """Asks a human and does what they say."""

    @step
    async def ask(self, ev: StartEvent) -> Approval:
        return Approval(prefix=f"May {ev.get('name', 'this')} go on?")

    @step
    async def act(self, ev: Decision) -> StopEvent:
        return StopEvent(result=f"they said {ev.response}")


class Contract(InputRequiredEvent):
    text: str
    pages: int


class Signature(HumanResponseEvent):
    approved: bool


class Sign(Workflow):
    """Has a contract signed, or not."""

    @step
    async def show(self, ev: StartEvent) -> Contract:
        return Contract(text="The parties agree.", pages=12)

    @step
    async def file(self, ev: Signature) -> StopEvent:
        return StopEvent(result="signed" if ev.approved else "torn up")


class Asked(InputRequiredEvent):
    question: str


class Waiter(Workflow):
    """Waits for a human in the middle of a step."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        answer = await ctx.wait_for_event(
            HumanResponseEvent, waiter_event=Asked(question="your name?"), waiter_id="name"
        )
        return StopEvent(result=f"hello {answer.get('response')}")


class Item(Event):
    number: int


class Done(Event):
    number: int


class Progress(Event):
    done: int
    total: int


class Fan(Workflow):
    """Spreads work over several workers and gathers what they bring."""

    @step
    async def spread(self, ctx: Context, ev: StartEvent) -> Item | None:
        count = int(ev.get("count", 6))
        await ctx.store.set("count", count)
        for number in range(count):
            ctx.send_event(Item(number=number))
        return None

    @step(num_workers=3)
    async def work(self, ctx: Context, ev: Item) -> Done:
        await asyncio.sleep(float(0.02 * (ev.number % 3)))
        return Done(number=ev.number)

    @step
    async def gather(self, ctx: Context, ev: Done) -> StopEvent | None:
        count = await ctx.store.get("count")
        found = ctx.collect_events(ev, [Done] * count)
        if found is None:
            return None
        ctx.write_event_to_stream(Progress(done=count, total=count))
        return StopEvent(result=sorted(done.number for done in found))


class Fails(Workflow):
    """Fails."""

    @step
    async def fail(self, ev: StartEvent) -> StopEvent:
        raise ValueError(ev.get("reason", "it cannot work"))


class Dozes(Workflow):
    """Is stopped by its time-out."""

    @step
    async def doze(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(3600)
        return StopEvent(result="rested")


class Go(HumanResponseEvent):
    """Opens the gate."""

    word: str = ""


class Gate(Workflow):
    """Streams ticks and stands at a gate until it is told to go on."""

    @step
    async def tick(self, ctx: Context, ev: StartEvent) -> None:
        for number in range(int(ev.get("ticks", 3))):
            ctx.write_event_to_stream(Progress(done=number, total=int(ev.get("ticks", 3))))

    @step
    async def leave(self, ctx: Context, ev: Go) -> StopEvent:
        return StopEvent(result=ev.word or "gone")


class Beat(Event):
    number: int


class Endures(Workflow):
    """Works for a while.

    In one step, and in a next one.
    """

    @step
    async def labour(self, ctx: Context, ev: StartEvent) -> Beat:
        ctx.write_event_to_stream(Beat(number=1))
        await asyncio.sleep(float(ev.get("seconds", 1.5)))
        return Beat(number=2)

    @step
    async def rest(self, ev: Beat) -> StopEvent:
        return StopEvent(result=f"beat {ev.number}")


class rest(Event):  # noqa: N801 - as the step is called that takes it
    number: int


class Toils(Workflow):
    """Works in one step for as long as it is not told that it is enough."""

    def __init__(self) -> None:
        super().__init__(timeout=None)
        self.enough = asyncio.Event()

    @step
    async def labour(self, ev: StartEvent) -> rest:
        await self.enough.wait()
        return rest(number=1)

    @step
    async def stop(self, ev: Go) -> None:
        self.enough.set()

    @step
    async def rest(self, ev: rest) -> StopEvent:
        return StopEvent(result=f"beat {ev.number}")


class Word(HumanResponseEvent):
    pass


class Heard(Event):
    by: str


class Choir(Workflow):
    """Three who listen: two steps, and one that waits in its middle."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Heard:
        ctx.write_event_to_stream(Heard(by="nobody"))
        await ctx.wait_for_event(Word)
        return Heard(by="begin")

    @step
    async def first(self, ev: Word) -> Heard:
        return Heard(by="first")

    @step
    async def second(self, ev: Word) -> Heard:
        return Heard(by="second")

    @step
    async def end(self, ctx: Context, ev: Heard) -> StopEvent | None:
        ctx.write_event_to_stream(ev)
        found = ctx.collect_events(ev, [Heard] * 3)
        return None if found is None else StopEvent(result=sorted(each.by for each in found))


class Tally(Workflow):
    """Counts its runs: one handler id keeps its state from run to run."""

    @step
    async def count(self, ctx: Context, ev: StartEvent) -> StopEvent:
        runs = await ctx.store.get("runs", default=0) + 1
        await ctx.store.set("runs", runs)
        return StopEvent(result=runs)


server = WorkflowServer()
server.add_workflow("greet", Greet())
server.add_workflow("checkout", Checkout())
server.add_workflow("approve", Approve(timeout=None))
server.add_workflow("sign", Sign(timeout=None))
server.add_workflow("waiter", Waiter(timeout=None), additional_events=[Asked, HumanResponseEvent])
server.add_workflow("fan", Fan())
server.add_workflow("fails", Fails())
server.add_workflow("dozes", Dozes(timeout=0.5))
server.add_workflow("gate", Gate(timeout=None))
server.add_workflow("endures", Endures())
server.add_workflow("choir", Choir(timeout=None))
server.add_workflow("tally", Tally())
server.add_workflow("toils", Toils())
