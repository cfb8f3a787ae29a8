"""Workflows for the page while things go on: written as a user writes them."""

import asyncio
import datetime as dt
import enum

from pydantic import BaseModel, Field

from ironflow.workflows import Context, Workflow, step
from ironflow.workflows.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
)
from ironflow.workflows.server import WorkflowServer


class Brief(Workflow):
    """Is over at once."""

    @step
    async def end(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result="done")


class More(Event):
    """Asks for another question."""


class Question(InputRequiredEvent):
    prefix: str


class Reply(HumanResponseEvent):
    response: str


class Asks(Workflow):
    """Asks again whenever it is told to; two answers are enough."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent | More) -> Question:
        asked = await ctx.store.get("asked", default=0)
        await ctx.store.set("asked", asked + 1)
        return Question(prefix=f"question number {asked}")

    @step
    async def take(self, ctx: Context, ev: Reply) -> StopEvent | None:
        found = ctx.collect_events(ev, [Reply, Reply])
        return None if found is None else StopEvent(result=[each.response for each in found])


class Noted(Event):
    answer: str


class Interview(Workflow):
    """Asks in the middle of a step, and then works on."""

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        answer = await ctx.wait_for_event(
            HumanResponseEvent, waiter_event=InputRequiredEvent(prefix="your name?")
        )
        ctx.write_event_to_stream(Noted(answer=answer.response))
        await asyncio.sleep(3600)
        return StopEvent()


class ANameThatSaysEverythingThatThereIsToSayOfWhatCameToPass(Event):
    pass


class Wordy(Workflow):
    """Has names that fit nowhere."""

    @step
    async def retrieve_what_was_asked_for_and_rank_it_by_relevance(
        self, ev: StartEvent
    ) -> ANameThatSaysEverythingThatThereIsToSayOfWhatCameToPass:
        return ANameThatSaysEverythingThatThereIsToSayOfWhatCameToPass()

    @step
    async def end(self, ev: ANameThatSaysEverythingThatThereIsToSayOfWhatCameToPass) -> StopEvent:
        return StopEvent()


class Query(InputRequiredEvent):
    prefix: str
    who: str


class Opinion(HumanResponseEvent):
    response: str
    who: str


class Turn(Event):
    who: str


class Heard(Event):
    text: str


class Line(Workflow):
    """One clerk, and three who stand in line."""

    @step
    async def open(self, ev: StartEvent) -> list[Turn]:
        return [Turn(who=who) for who in ("Ada", "Bob", "Cyd")]

    @step(num_workers=1)
    async def serve(self, ev: Turn) -> StopEvent:
        await asyncio.sleep(3600)
        return StopEvent()


class Experts(Workflow):
    """Asks two people at once, each in the middle of a step."""

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Turn | None:
        for who in ("Ada", "Bob"):
            ctx.send_event(Turn(who=who))
        return None

    @step
    async def ask(self, ctx: Context, ev: Turn) -> Heard:
        found = await ctx.wait_for_event(
            Opinion,
            waiter_event=Query(prefix="Well?", who=ev.who),
            waiter_id=ev.who,
            requirements={"who": ev.who},
        )
        return Heard(text=f"{ev.who} says {found.response}")

    @step
    async def end(self, ctx: Context, ev: Heard) -> StopEvent | None:
        ctx.write_event_to_stream(ev)
        found = ctx.collect_events(ev, [Heard, Heard])
        return None if found is None else StopEvent(result=[each.text for each in found])


class Tick(Event):
    number: int


class Ticks(Workflow):
    """Streams for as long as it is let."""

    @step
    async def tick(self, ctx: Context, ev: StartEvent) -> StopEvent:
        number = 0
        while True:
            ctx.write_event_to_stream(Tick(number=number))
            number += 1
            await asyncio.sleep(0.05)


class Contract(Workflow):
    """Asks at great length, and fails at what is answered."""

    @step
    async def ask(self, ev: StartEvent) -> Question:
        return Question(prefix="The parties agree. " * 400)

    @step
    async def sign(self, ev: Reply) -> StopEvent:
        raise ValueError(f"nobody signs {ev.response}")


def chain(length: int) -> Workflow:
    """A workflow of many steps in a row."""
    kinds: list[type] = [StartEvent, *(type(f"Link{n}", (Event,), {}) for n in range(length))]
    kinds.append(StopEvent)

    def link(number: int) -> object:
        async def go(self: Workflow, ev: Event) -> Event:
            made: Event = kinds[number + 1]()
            return made

        go.__name__, go.__qualname__ = f"go{number}", f"Chain.go{number}"
        go.__annotations__ = {"ev": kinds[number], "return": kinds[number + 1]}
        return step(go)

    return type("Chain", (Workflow,), {f"go{n}": link(n) for n in range(length + 1)})()


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Address(BaseModel):
    street: str
    zip: str


class Form(StartEvent):
    address: Address
    colour: Colour = Colour.RED
    due: dt.date | None = None
    at: dt.datetime | None = None
    tags: list[str] = Field(default_factory=list)


class Forms(Workflow):
    """Takes a form with a bit of everything."""

    @step
    async def file(self, ev: Form) -> StopEvent:
        return StopEvent(result=f"{ev.colour.value} {ev.address.street}")


server = WorkflowServer()
server.add_workflow("brief", Brief())
server.add_workflow("many", Brief())
server.add_workflow("asks", Asks(timeout=None, disable_validation=True), additional_events=[More])
server.add_workflow("interview", Interview(timeout=None))
server.add_workflow("ticks", Ticks(timeout=None))
server.add_workflow("contract", Contract(timeout=None))
server.add_workflow("chain", chain(40))
server.add_workflow("forms", Forms())
server.add_workflow("wordy", Wordy())
server.add_workflow("line", Line(timeout=None))
server.add_workflow("experts", Experts(timeout=None))
