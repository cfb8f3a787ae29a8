"""Drawings of workflows and of what runs did; and the guide's own example."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Annotated, Any
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from ironflow.cli.main import program
from ironflow.core.runs.entries import decode_entry
from ironflow.workflows import Context, Workflow, step
from ironflow.workflows.diagrams import (
    HEIGHT,
    ROOM,
    WIDTH,
    Diagram,
    Edge,
    Node,
    place,
    to_html,
    to_svg,
    width_of,
)
from ironflow.workflows.drawing import (
    draw_all_possible_flows,
    draw_all_possible_flows_mermaid,
    draw_most_recent_execution,
    draw_most_recent_execution_mermaid,
    draw_most_recent_execution_svg,
    execution_diagram,
    workflow_diagram,
)
from ironflow.workflows.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
)
from ironflow.workflows.representation import get_workflow_representation
from ironflow.workflows.resource import Resource, ResourceConfig
from ironflow.workflows.retry_policy import retry_policy, stop_after_attempt, wait_none

DOCS = Path(__file__).parents[2] / "docs"


class Part(Event):
    n: int


class Done(Event):
    n: int


class Mapped(Workflow):
    @step
    async def split(self, ev: StartEvent) -> list[Part] | InputRequiredEvent:
        return [Part(n=n) for n in range(3)]

    @step(retry_policy=retry_policy(wait=wait_none(), stop=stop_after_attempt(2)))
    async def work(self, ctx: Context, ev: Part) -> Done:
        if ev.n == 1 and not ctx.retry_info().retry_number:
            raise ValueError("again")
        return Done(n=ev.n)

    @step
    async def join(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=len(evs))

    @step
    async def told(self, ev: HumanResponseEvent) -> StopEvent:
        return StopEvent()


def boxes(svg: str) -> list[str]:
    root = ET.fromstring(svg)
    space = {"s": "http://www.w3.org/2000/svg"}
    return [g.attrib["data-id"] for g in root.findall(".//s:g", space)]


def test_all_ways_through_a_workflow(tmp_path: Path) -> None:
    diagram = workflow_diagram(Mapped())
    arrows = {(edge.source, edge.target) for edge in diagram.edges}
    assert {
        ("StartEvent", "split"), ("split", "Part"), ("Part", "work"), ("work", "Done"),
        ("Done", "join"), ("join", "StopEvent"), ("split", "InputRequiredEvent"),
        ("InputRequiredEvent", "external_step"), ("external_step", "HumanResponseEvent"),
        ("HumanResponseEvent", "told"), ("told", "StopEvent"),
    } == arrows  # fmt: skip
    assert sorted(boxes(to_svg(diagram))) == sorted(node.id for node in diagram.nodes)
    places = place(diagram)
    assert len(set(places.values())) == len(diagram.nodes)  # none lies on another
    page = draw_all_possible_flows(Mapped(), str(tmp_path / "all.html"))
    assert (tmp_path / "all.html").read_text() == page
    assert not re.search(r"(src|href)=|url\(http|@import|<script", page)  # nothing is loaded
    assert draw_all_possible_flows(Mapped(), str(tmp_path / "all.svg")).startswith("<svg")
    text = draw_all_possible_flows_mermaid(Mapped(), None, max_label_length=8)
    assert text.startswith("flowchart LR")
    assert '"InputRe…"' in text


class work(Event):  # noqa: N801 - as a step is called
    n: int = 0


class Namesakes(Workflow):
    @step
    async def begin(self, ev: StartEvent) -> work:
        return work()

    @step
    async def work(self, ev: work) -> StopEvent:
        return StopEvent(result=ev.n)


def test_a_step_and_an_event_of_one_name_are_two_nodes() -> None:
    graph = get_workflow_representation(Namesakes())
    nodes = {node["id"]: (node["node_type"], node["label"]) for node in graph["nodes"]}
    assert nodes["work"] == ("step", "work")
    assert nodes["work~2"] == ("event", "work")
    assert {(edge["source"], edge["target"]) for edge in graph["edges"]} == {
        ("StartEvent", "begin"), ("begin", "work~2"), ("work~2", "work"), ("work", "StopEvent"),
    }  # fmt: skip
    drawn = draw_all_possible_flows_mermaid(Namesakes(), None)
    assert drawn.count('"work"') == 2


class Place(BaseModel):
    host: str


def make_client(place: Annotated[Place, ResourceConfig("place.json", label="Where")]) -> str:
    """Makes one."""
    return place.host


class Resourceful(Workflow):
    @step
    async def one(self, ev: StartEvent, client: Annotated[str, Resource(make_client)]) -> StopEvent:
        return StopEvent(result=client)


def test_resources_and_what_they_are_made_of_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "place.json").write_text('{"host": "here"}')
    graph = get_workflow_representation(Resourceful())
    nodes = {node["node_type"]: node for node in graph["nodes"]}
    resource, config = nodes["resource"], nodes["resource_config"]
    assert re.fullmatch("resource_[0-9a-f]{12}", resource["id"])
    assert (resource["type_name"], resource["getter_name"]) == ("str", "make_client")
    assert (resource["description"], resource["source_file"]) == ("Makes one.", __file__)
    assert resource["source_line"] > 1
    assert re.fullmatch("resource_config_[0-9a-f]{12}", config["id"])
    assert (config["label"], config["type_name"], config["path_selector"]) == (
        "Where",
        "Place",
        None,
    )
    assert (config["config_file"], config["config_value"]) == ("place.json", {"host": "here"})
    assert config["config_schema"]["properties"]["host"]["type"] == "string"
    edges = {(edge["source"], edge["target"]): edge["label"] for edge in graph["edges"]}
    assert edges["one", resource["id"]] == "client"
    assert edges[resource["id"], config["id"]] == "place"


class Name(HumanResponseEvent):
    response: str


class WhatName(InputRequiredEvent):
    prefix: str


class Urgent(Event):
    pass


class Elsewhere(HumanResponseEvent):
    pass


async def ask(ctx: Context, question: str) -> str:
    found = await ctx.wait_for_event(Name, waiter_event=WhatName(prefix=question))
    return str(found.response)


def tell(ev: Event) -> str:
    return "elsewhere" if isinstance(ev, Elsewhere) else "here"


class Helped(Workflow):
    """What its steps wait for and send stands in what they call."""

    async def ask_twice(self, ctx: Context) -> str:
        return await ask(ctx, "your name?") + await ask(ctx, "again?")

    @staticmethod
    def hurry(ctx: Context) -> None:
        ctx.send_event(Urgent())

    @step
    async def greet(self, ctx: Context, ev: StartEvent) -> Done:
        self.hurry(ctx)
        tell(ev)
        return Done(n=len(await self.ask_twice(ctx)))

    @step
    async def run(self, ev: Done | Urgent | Elsewhere) -> StopEvent | None:
        return StopEvent() if isinstance(ev, Done) else None


def test_what_helpers_wait_for_and_send_is_drawn() -> None:
    graph = get_workflow_representation(Helped(disable_validation=True))
    edges = {(e["source"], e["target"]): e["label"] for e in graph["edges"]}
    assert edges["Name", "greet"] == "waits for"
    assert edges["external_step", "Name"] is None
    assert edges["greet", "WhatName"] == "asks"
    assert edges["greet", "Urgent"] == "sends"
    assert {n["id"]: n.get("produced_by") for n in graph["nodes"]}["Urgent"] == ["greet"]
    assert ("Elsewhere", "greet") not in edges  # which is looked at on no way to a wait
    assert {source for source, _ in edges if source == "run"} == {"run"}
    assert [target for source, target in edges if source == "run"] == ["StopEvent"]


async def test_what_a_run_did(tmp_path: Path) -> None:
    handler = Mapped().run()
    assert await handler == 3
    entries = [decode_entry(e.kind, e.data) for e in handler.history() or []]
    diagram = execution_diagram("Run", entries)
    labels = [node.label for node in diagram.nodes]
    assert sorted(labels) == [
        "StartEvent",
        "StopEvent",
        "join",
        "split",
        "work",
        "work",
        "work (x2)",
    ]
    join = next(node.id for node in diagram.nodes if node.label == "join")
    assert len([e for e in diagram.edges if e.target == join]) == 3
    page = draw_most_recent_execution(handler, str(tmp_path / "run.html"))
    assert "work (x2)" in page
    assert "work (x2)" in draw_most_recent_execution_mermaid(handler, None)
    drawn = draw_most_recent_execution_svg(handler, str(tmp_path / "run.svg"))
    assert sorted(boxes(drawn)) == sorted(node.id for node in diagram.nodes)
    assert (tmp_path / "run.svg").read_text() == drawn


class Asks(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> WhatName:
        return WhatName(prefix="your name?")

    @step
    async def more(self, ctx: Context, ev: Name) -> StopEvent:
        found = await ctx.wait_for_event(HumanResponseEvent, InputRequiredEvent(prefix="sure?"))
        return StopEvent(result=f"{ev.response} {found.response}")


async def test_what_a_run_asked_and_was_answered() -> None:
    handler = Asks(timeout=None).run()
    async for event in handler.stream_events():
        if isinstance(event, WhatName):
            await handler.send_event(Name(response="Ada"))
        elif isinstance(event, InputRequiredEvent):
            await handler.send_event(HumanResponseEvent(response="yes"))
    assert await handler == "Ada yes"
    entries = [decode_entry(e.kind, e.data) for e in handler.history() or []]
    diagram = execution_diagram("Run", entries)
    names = {node.id: node.label.partition(" ")[0] for node in diagram.nodes}
    assert [(names[e.source], e.label, names[e.target]) for e in diagram.edges] == [
        ("StartEvent", "StartEvent", "ask"), ("ask", "WhatName", "outside"),
        ("outside", "Name", "more"), ("more", "InputRequiredEvent", "outside"),
        ("outside", "HumanResponseEvent", "more"), ("more", "", "StopEvent"),
    ]  # fmt: skip


async def test_a_run_that_failed() -> None:
    class Bad(Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent:
            raise ValueError("<why>")

    handler = Bad().run()
    with pytest.raises(ValueError, match="why"):
        await handler
    entries = [decode_entry(e.kind, e.data) for e in handler.history() or []]
    page = to_html(execution_diagram("Run", entries))
    assert "ValueError: &lt;why&gt;" in page
    assert "<why>" not in page


MODULE = """
from ironflow.workflows import Workflow, step
from ironflow.workflows.events import StartEvent, StopEvent

class Greet(Workflow):
    @step
    async def hello(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result="hello")
"""


def test_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "drawn_module.py").write_text(MODULE)

    def run(*line: str) -> Any:
        return CliRunner().invoke(program, ["workflows", "draw", *line])

    assert run("drawn_module.py").output.startswith("flowchart LR")
    assert run("drawn_module.py", "Greet", "--format", "svg").output.startswith("<svg")
    done = run("drawn_module.py", "Greet", "-o", "out.html")
    assert done.output == "out.html: 3 nodes, 2 edges\n"
    assert (tmp_path / "out.html").read_text().startswith("<!doctype html>")
    assert '"nodes":[' in run("drawn_module.py", "--json").output.replace(" ", "")
    wrong = run("drawn_module.py", "Nope")
    assert wrong.exception is not None
    assert "it has Greet" in str(wrong.exception)
    assert "give a module" in str(run().exception)
    assert "cannot be written" in str(run("drawn_module.py", "-o", "no/where.svg").exception)
    assert "not pdf: name the file .html" in str(run("drawn_module.py", "-o", "x.pdf").exception)
    assert not (tmp_path / "x.pdf").exists()
    # What a server of the module calls it by is a name, too.
    server = "\nfrom ironflow.workflows.server import WorkflowServer\nserver = WorkflowServer()\n"
    server += "server.add_workflow('hello-there', Greet())\n"
    (tmp_path / "server_module.py").write_text(MODULE + server)
    for line in (["server_module.py", "hello-there"], ["server_module.py"]):
        assert run(*line).output.startswith("flowchart LR"), line
    # A class and its instance are one workflow: which one need not be said.
    (tmp_path / "served_module.py").write_text(MODULE + "\ngreet = Greet()\n")
    assert run("served_module.py").output.startswith("flowchart LR")


def test_names_are_text_in_every_drawing(tmp_path: Path) -> None:
    odd = type("Odd<script>alert(1)</script>#1", (Event,), {"__module__": __name__})

    class Strange(Workflow):
        @step
        async def make(self, ev: StartEvent) -> odd:  # type: ignore[valid-type]
            return odd()

        @step
        async def take(self, ev: odd) -> StopEvent:  # type: ignore[valid-type]
            return StopEvent()

    page = draw_all_possible_flows(Strange(), str(tmp_path / "odd.html"))
    assert "<script" not in page
    assert "Odd&lt;script&gt;" in page
    mermaid = draw_all_possible_flows_mermaid(Strange(), None)
    assert '"Odd#lt;script#gt;alert(1)#lt;/script#gt;#35;1"' in mermaid


@pytest.mark.parametrize("thing", [3, None, "Greet", object])
def test_only_workflows_are_drawn(thing: object) -> None:
    with pytest.raises(TypeError, match="a workflow is drawn, not"):
        draw_all_possible_flows(thing, None)


async def test_the_guides_first_example_runs(tmp_path: Path, capsys: Any) -> None:
    text = (DOCS / "workflows.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    code = code.replace("letters.db", str(tmp_path / "letters.db"))
    code = code.replace("asyncio.run(main())", "")
    space: dict[str, Any] = {"__name__": "letters"}
    exec(code, space)
    await asyncio.wait_for(space["main"](), 30)
    await asyncio.wait_for(space["main"](), 30)  # the same key: the same run, with its result
    assert capsys.readouterr().out == "Dear Ada\n" * 2


def test_labels_stand_within_their_nodes_and_between_them() -> None:
    wide, narrow = "W" * 30, "a_name_of_22_characters"[:22]
    drawn = Diagram(
        "wide",
        [Node("a", wide, "step"), Node("b", narrow, "event"), Node("c", "c", "stop")],
        [Edge("a", "b", "a label longer than gaps"), Edge("b", "c"), Edge("c", "a", "back")],
    )
    root = ET.fromstring(to_svg(drawn))
    tag = "{http://www.w3.org/2000/svg}"
    labels = [each.findtext(f"{tag}text") or "" for each in root.findall(f"{tag}g")]
    assert labels[0].endswith("…")
    assert all(width_of(label) <= ROOM for label in labels)
    assert labels[1:] == [narrow, "c"]
    boxes = [each.find(f"{tag}rect") for each in root.findall(f"{tag}g")]
    lefts = [int(box.get("x", "0")) for box in boxes if box is not None]
    texts = root.findall(f"{tag}text")  # behind everything else, so that nothing is drawn over them
    assert list(root)[-2:] == texts
    assert lefts[1] - lefts[0] - WIDTH >= width_of(texts[0].text or "")
    # What goes back goes below the nodes, and so does its label.
    assert (
        int(texts[1].get("y", "0"))
        > max(int(box.get("y", "0")) for box in boxes if box is not None) + HEIGHT
    )
