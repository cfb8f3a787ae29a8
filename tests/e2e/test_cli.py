"""The command line as people and scripts use it: real processes against one real server."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.place import LIMIT, Place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("cli"))
    made.start()
    yield made
    code = made.stop()
    made.close()
    assert code == 0, made.log.read_text()


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Place]:
    """A folder without a server."""
    made = Place(tmp_path)
    yield made
    made.close()


# -- runs ------------------------------------------------------------------------------------------


def test_invoke_wait_and_look(place: Place) -> None:
    out, err = place.cli("invoke", "greet", "--input", '{"name": "Ada"}', "--wait", "30s")
    assert json.loads(out) == {"hello": "Ada"}
    run_id = err.split()[1]
    assert err == f"run {run_id} completed\n"

    table, _ = place.cli("runs", "ls", "--function", "greet", "--status", "completed")
    short = run_id.rpartition("-")[2]
    assert table.splitlines()[0].startswith("RUN")
    assert short in table

    shown, _ = place.cli("runs", "show", short)
    assert run_id in shown
    assert 'result    {"hello":"Ada"}' in shown
    assert "look up" in shown
    view = place.value("runs", "show", run_id)
    assert (view["status"], view["result"]) == ("completed", {"hello": "Ada"})

    functions = {item["id"]: item for item in place.items("functions", "ls")}
    assert functions["greet"]["served"] is True
    assert "Says hello." in place.cli("functions", "show", "greet")[0]
    assert place.value("stats")["runs"]["completed"] >= 1


def test_input_from_stdin_and_file(place: Place) -> None:
    out, _ = place.cli("invoke", "greet", "--input", "-", "--wait", "30s", text='{"name": 1}')
    assert json.loads(out) == {"hello": 1}
    (place.folder / "order.json").write_text('{"name": 2}')
    view = place.value("invoke", "greet", "--input", "@order.json", "--wait", "30s")
    assert (view["status"], view["result"]) == ("completed", {"hello": 2})


def test_a_run_that_fails(place: Place) -> None:
    said = place.error("invoke", "fail", "--wait", "30s", code=1)
    assert re.match(r"run \S+ failed: \w+: .*no \\x1b\[31mred", said)
    run_id = said.split()[1]
    view = place.value("invoke", "fail", "--wait", "30s", code=1)
    assert view["status"] == "failed"
    shown, _ = place.cli("runs", "show", run_id)
    assert "trace" in shown
    assert "today" in shown
    entries, _ = place.cli("runs", "history", run_id)
    assert [line.split()[3] for line in entries.splitlines()] == [
        "run.created", "run.started", "step.failed", "run.failed",
    ]  # fmt: skip
    assert [item["version"] for item in place.items("runs", "history", run_id)] == [1, 2, 3, 4]
    lines, err = place.cli("runs", "watch", run_id, code=1)
    assert [line.split()[1] for line in lines.splitlines()] == [
        "run.created", "run.started", "step.failed", "run.failed",
    ]  # fmt: skip
    assert err == ""


def test_control_of_a_run_that_sleeps(place: Place) -> None:
    said = place.error("invoke", "sleepy", "--wait", "50ms", code=1)
    run_id = said.split()[1]
    assert "has not ended after 50ms" in said
    short = run_id.rpartition("-")[2]
    why, _ = place.cli("why", short)
    assert "nap" in why
    assert re.search(r"in (59m|1h)", why)
    assert place.value("why", run_id)["reasons"][0]["kind"] == "timer"
    assert place.cli("runs", "pause", short, "--reason", "lunch")[0] == f"run {run_id} is paused\n"
    assert place.value("runs", "show", run_id)["reason"] == "lunch"
    assert place.value("runs", "resume", short)["run_id"] == run_id
    place.cli("runs", "cancel", short, "--reason", "tired")
    view = place.value("runs", "show", run_id)
    assert (view["status"], view["reason"]) == ("cancelled", "tired")
    assert "has ended already" in place.error("runs", "cancel", run_id, code=1)
    assert place.value("runs", "retry", run_id)["status"] in ("queued", "running", "waiting")
    place.cli("runs", "cancel", run_id)


def test_what_waits_is_listed_started_and_cancelled(place: Place) -> None:
    data = '{"user": "ada", "n": 1}'
    first = place.value("emit", "desk.used", "--data", data)
    out, _ = place.cli("emit", "desk.used", "--data", '{"user": "ada", "n": 2}')
    event_id = out.split()[1]
    assert f"skipped by lone: run {first['run_ids'][0]} was there" in out
    assert "debounced by calm: it waits for quiet" in out
    table, _ = place.cli("debounce", "ls")
    assert re.search(r"calm +ada +2 ", table)
    assert place.value("batches", "ls", "--function", "bulk")["events"] == 2
    assert place.value("singletons", "ls")["run_id"] == first["run_ids"][0]
    why, _ = place.cli("why", event_id)
    assert "it waits in a batch of 2" in why
    assert {one["fate"] for one in place.value("why", event_id)["outcomes"]} == {
        "debounced", "batched", "skipped",
    }  # fmt: skip
    said = place.error("debounce", "fire", "calm", "eve", code=2)
    assert "nothing waits of 'calm' with the key 'eve'; there is 'ada'" in said
    said, _ = place.cli("debounce", "cancel", "calm", "--all", "--dry-run")
    assert said == "would cancel calm 'ada': 2 events\n"
    fired = place.value("debounce", "fire", "calm", "ada")
    assert place.value("runs", "show", fired["run_id"])["merged"] == 2
    said, _ = place.cli("batches", "cancel", "bulk")
    assert said == "bulk '': 2 events cancelled\n"
    assert place.items("batches", "ls") == []
    said, _ = place.cli("invoke", "calm", "--input", data)
    assert re.match(r"event \S+ is debounced: no run yet, which starts at ", said)
    assert "debounced" in place.error("invoke", "calm", "--input", data, "--wait", "1s", code=1)
    place.cli("debounce", "cancel", "calm", "ada")
    place.cli("runs", "cancel", first["run_ids"][0])


def test_events_start_runs_once_per_key(place: Place) -> None:
    first = place.value("emit", "order.placed", "--data", '{"id": 17}', "--key", "order-17")
    assert first["created"] is True
    [run_id] = first["run_ids"]
    again, _ = place.cli("emit", "order.placed", "--data", '{"id":17}', "--key", "order-17")
    assert again == f"event {first['event_id']} (found by its key)\nrun {run_id}\n"
    assert "order-17" in place.error(
        "emit", "order.placed", "--data", '{"id": 18}', "--key", "order-17", code=1
    )
    [event] = place.items("events", "ls", "--name", "order.placed", "--since", "1h")
    assert event["data"] == {"id": 17}
    assert run_id in place.cli("events", "show", first["event_id"])[0]
    out, err = place.cli("emit", "nobody.listens")
    assert "it started no run; one that waits for it goes on" in err
    assert "a run that waited for it went on" in place.cli("why", out.split()[1])[0]
    [found] = place.items("runs", "ls", "--event", "order.placed")
    assert found["id"] == run_id
    place.cli("runs", "cancel", run_id)


def test_watch_prints_an_entry_a_line(place: Place) -> None:
    run_id = place.value("invoke", "fan")["run_id"]
    out, _ = place.cli("runs", "watch", run_id, "--json")
    entries = [json.loads(line) for line in out.splitlines()]
    assert [entry["version"] for entry in entries] == list(range(1, len(entries) + 1))
    assert entries[-1]["kind"] == "run.completed"
    keys = {entry["data"]["key"] for entry in entries if entry["kind"] == "step.completed"}
    assert keys == {"work/a/quick", "work/a/slow", "work/b/quick", "work/b/slow"}


def test_watching_all_runs_until_ctrl_c(place: Place) -> None:
    process = place.open("runs", "watch", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines: list[str] = []
    found = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if "run.completed" in line and any("greet" in other for other in lines):
                found.set()  # an end alone: the watch began in the middle of that run

    reader = threading.Thread(target=read)
    reader.start()
    end = time.monotonic() + LIMIT
    while not found.is_set() and time.monotonic() < end:  # it may not have begun to listen yet
        place.cli("invoke", "greet", "--input", '{"name": "x"}')
        found.wait(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(2 * LIMIT) == 130
    reader.join(LIMIT)
    assert process.stderr is not None
    assert process.stderr.read().strip() == ""
    assert any("greet" in line for line in lines)
    process.stdout.close()
    process.stderr.close()


def test_watch_goes_on_when_the_server_comes_back(bare: Place) -> None:
    bare.start()
    run_id = bare.value("invoke", "approval")["run_id"]
    process = bare.open(
        "runs", "watch", run_id, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    line = ""
    while "wait.started" not in line:
        line = process.stdout.readline()
        assert line, "the watch ended"
    assert bare.stop() == 0, bare.log.read_text()
    bare.start()
    bare.cli("emit", "order.approved", "--data", '"yes"')
    out, err = process.communicate(timeout=2 * LIMIT)
    assert process.returncode == 0
    assert "connection lost" in err
    kinds = [text.split()[1] for text in out.splitlines()]
    assert kinds[-1] == "run.completed"
    assert kinds.count("wait.ended") == 1
    assert bare.stop() == 0, bare.log.read_text()


# -- terminals -------------------------------------------------------------------------------------


def on_terminal(place: Place, *arguments: str, columns: int = 80, **env: str) -> tuple[int, str]:
    """Run with a pseudo terminal as stdout; the exit code and everything that was written."""
    main, side = pty.openpty()
    process = place.open(
        *arguments, env={"COLUMNS": str(columns), "LINES": "24", **env},
        stdin=side, stdout=side, stderr=subprocess.PIPE,
    )  # fmt: skip
    os.close(side)
    chunks = []
    while True:
        try:
            chunk = os.read(main, 65536)
        except OSError:  # the other side is closed
            break
        if not chunk:
            break
        chunks.append(chunk)
    os.close(main)
    assert process.stderr is not None
    err = process.stderr.read().decode()
    process.stderr.close()
    code = process.wait(2 * LIMIT)
    assert err == "", err
    return code, b"".join(chunks).decode()


def test_watch_on_a_terminal_draws_a_tree(place: Place) -> None:
    run_id = place.value("invoke", "fan")["run_id"]
    code, screen = on_terminal(place, "runs", "watch", run_id)
    assert code == 0
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.rpartition("\x1b[2K")[2] or screen)
    names = [line.split()[1] for line in last.strip().splitlines()]
    branches = [["a", "quick", "slow"], ["b", "quick", "slow"]]
    assert names[:2] == ["fan", "work"]
    assert sorted([names[2:5], names[5:]]) == branches  # that whose step ended first stands first
    depths = [len(line) - len(line.lstrip()) for line in last.strip("\r\n").splitlines()]
    assert depths == [0, 2, 4, 6, 6, 4, 6, 6]


def test_a_large_result_does_not_flood_a_terminal(place: Place) -> None:
    name = json.dumps({"name": "x" * 50_000})
    _, err = place.cli("invoke", "greet", "--input", "-", "--wait", "30s", text=name)
    run_id = err.split()[1]
    code, screen = on_terminal(place, "runs", "show", run_id)
    assert code == 0
    assert len(screen) < 15_000
    assert re.search(r"50,0\d\d characters; --json shows them all", screen)
    assert len(place.cli("runs", "show", run_id)[0]) > 100_000, "elsewhere nothing is cut"


def test_lists_on_a_narrow_terminal_without_colours(place: Place) -> None:
    place.error("invoke", "fail", "--wait", "30s", code=1)
    code, screen = on_terminal(place, "runs", "ls", "-n", "5", columns=60, NO_COLOR="1")
    assert code == 0
    assert "\x1b" not in screen
    rows = [line for line in screen.splitlines() if line and not line.startswith("    ")]
    assert max(map(len, rows)) <= 60
    assert "failed" in screen
    code, screen = on_terminal(place, "runs", "ls")
    assert code == 0
    assert "\x1b[1;31mfailed" in screen


def test_a_reader_that_goes_away_is_no_error(place: Place) -> None:
    process = place.open("runs", "ls", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(2 * LIMIT) == 141


# -- what is typed wrongly -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (["sevre"], 2, "no verb 'sevre'; did you mean 'serve'?"),
        (["runs", "list"], 2, "no verb 'list'; did you mean 'ls'?"),
        (["runs", "logs", "x"], 2, "no verb 'logs'; did you mean 'history'?"),
        (["trigger", "greet"], 2, "no verb 'trigger'; did you mean 'invoke'?"),
        (["runs", "ls", "--statsu", "x"], 2, "no option '--statsu'; did you mean '--status'?"),
        (["runs", "ls", "--status", "done"], 2, "--status: 'done' is not one of"),
        (["runs", "ls", "--limit", "0"], 2, "--limit: 0 is not in the range"),
        (["runs", "ls", "--since", "yesterday"], 2, "--since: 'yesterday' is no moment"),
        (["runs", "ls", "--server", "nowhere"], 2, "--server: 'nowhere' is not a URL"),
        (["why"], 2, "RUN|EVENT: is missing"),
        (["invoke", "greet", "--wait", "soon"], 2, "--wait: 'soon' is not a duration"),
        (["invoke", "greet", "--input", "{bad"], 2, "--input: '{bad' is not JSON"),
        (["invoke", "greet", "--input", "@no.json"], 2, "--input: cannot read 'no.json'"),
        (["run", "no.py:x"], 2, "MODULE:FUNCTION: there is no file no.py"),
        (["run", "app.py:x"], 2, "MODULE:FUNCTION: no function 'x' in app.py; functions there: "),
        (["run", "app.py:greet", "--key", "k"], 2, "--key: needs --db"),
        (["config", "--port", "99999"], 2, "--port: '99999': must be a whole number, at least 0 "),
        (["config", "--durability", "no"], 2, "--durability: 'no': must be one of full, process"),
        (["config", "--config", "."], 2, "config file . is not a file"),
        (["worker", "app.py", "--heartbeat", "0s"], 2, "--heartbeat: '0s' must be at least 100ms"),
        (["worker", "app.py", "--log-level", "x"], 2, "--log-level: 'x' is not one of 'debug'"),
        (["serve", "--db", "memory", "--host", "192.0.2.1"], 2, "host: 192.0.2.1 is no address of"),
        (["config", "--config", "no.toml"], 2, "config file no.toml does not exist"),
        (["runs", "ls", "--server", "http://127.0.0.1:1"], 3, "http://127.0.0.1:1"),
        (["db", "info", "--db", "no.db"], 1, "no database"),
        (["db", "info", "--db", "app.py"], 1, "not a database"),
        (["db", "vacuum", "--db", "memory"], 2, "--db: is `memory`"),
        (["serve", "no.py"], 2, "there is no file no.py"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_clear_line(bare: Place, line: list[str], code: int, said: str) -> None:
    assert said in bare.error(*line, code=code)


def test_what_the_server_refuses(place: Place) -> None:
    assert "no function 'nope'" in place.error("invoke", "nope", code=1)
    unknown = "0192f1d2-7c1a-7d4e-9a51-00abcdef1234"
    assert unknown in place.error("runs", "show", unknown, code=1)
    assert "no run 'ffffffffffff'" in place.error("why", "ffffffffffff", code=1)
    assert place.error("emit", "bad name!", code=2).startswith("name: ")
    place.cli("invoke", "greet", "--input", '{"name": 1}', "--key", "k")
    taken = place.error("invoke", "greet", "--input", '{"name": 2}', "--key", "k", code=1)
    assert "different input" in taken
    place.cli("invoke", "greet", "--input", '{"name": 3}')
    assert "is ambiguous" in place.error("runs", "show", "01", code=2)


def test_a_module_that_cannot_be_imported_names_its_line(bare: Place) -> None:
    (bare.folder / "bad.py").write_text("import os\n\nraise KeyError('boo')\n")
    (bare.folder / "worse.py").write_text("x = 1\ndef (:\n")
    for verb in (["serve", "bad.py"], ["run", "bad.py:x"]):
        assert re.search(r"KeyError: 'boo' \(.*bad\.py:3\)", bare.error(*verb, code=2))
    assert re.search(r"worse\.py:2: ", bare.error("run", "worse.py:x", code=2))
    _, err = bare.cli("run", "bad.py:x", "--debug", code=2)
    assert "Traceback" in err


# -- without a server ------------------------------------------------------------------------------


def test_run_in_this_process(bare: Place) -> None:
    out, err = bare.cli("run", "app.py:greet", "--input", '{"name": "Bob"}')
    assert (json.loads(out), err) == ({"hello": "Bob"}, "")
    db = ["--db", "work.db", "--key", "one"]
    first = bare.value("run", "app.py:greet", "--input", '{"name": "Eve"}', *db)
    assert first == bare.value("run", "app.py:greet", "--input", '{"name":"Eve"}', *db)
    assert bare.value("db", "info", "--db", "work.db")["rows"]["runs"] == 1
    assert "different input" in bare.error("run", "app.py:greet", "--input", "{}", *db, code=1)
    assert "no \\x1b[31mred" in bare.error("run", "app.py:fail", code=1)
    _, err = bare.cli("run", "app.py:approval", "--timeout", "2s", code=1)
    waits, ended = err.splitlines()
    assert re.fullmatch(r"run/\S+ waits for an event 'order.approved'; from outside only .*", waits)
    assert "has not ended after 2" in ended


def test_config_tells_where_each_value_comes_from(bare: Place) -> None:
    (bare.folder / "ironflow.toml").write_text('port = 5000\ndb = "file.db"\nlog_level = "debug"\n')
    out, _ = bare.cli("config", "--json", "--log-level", "error", IRONFLOW_DB="env.db")
    found = {item["name"]: item for item in map(json.loads, out.splitlines())}
    assert (found["port"]["value"], found["port"]["origin"]) == (5000, "file ironflow.toml")
    assert (found["db"]["value"], found["db"]["origin"]) == ("env.db", "env IRONFLOW_DB")
    assert (found["log_level"]["value"], found["log_level"]["origin"]) == ("error", "flag")
    assert found["host"]["origin"] == "default"
    assert all(item["doc"] for item in found.values())
    assert "did you mean IRONFLOW_PORT?" in bare.error("config", code=2, IRONFLOW_PROT="1")
    (bare.folder / "ironflow.toml").write_text("prot = 5000\n")
    assert "did you mean port?" in bare.error("config", code=2)


def findings(place: Place, *options: str, code: int = 0) -> dict[str, dict[str, str]]:
    out, _ = place.cli("doctor", "--json", *options, code=code)
    return {item["name"]: item for item in map(json.loads, out.splitlines())}


def test_doctor(place: Place, bare: Place) -> None:
    healthy = findings(place, "--port", str(place.port), "--db", str(place.db))
    assert {item["status"] for item in healthy.values()} <= {"ok", "warn"}
    assert "healthy server" in healthy["server"]["text"]
    assert str(place.server.pid if place.server else "?") in healthy["lock"]["text"]
    assert healthy["integrity"]["status"] == "ok"

    (bare.folder / "torn.db").write_bytes(place.db.read_bytes()[:100] + b"\xff" * 8000)
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(LIMIT)
        hang_up = threading.Thread(target=lambda: [other.accept()[0].close() for _ in range(2)])
        hang_up.start()
        port = str(other.getsockname()[1])
        here = ("--port", port, "--db", "torn.db", "--host", "0.0.0.0", "--dev")
        sick = findings(bare, *here, code=1)
        hang_up.join()
    assert "not ironflow" in sick["port"]["text"]
    broken = {name for name, item in sick.items() if item["status"] == "broken"}
    assert broken == {"port", "address", "database"}
    assert all(sick[name]["fix"] for name in broken)
    out, err = bare.cli("doctor", "--port", "0", code=1, IRONFLOW_PROT="1")
    assert re.search(r"^broken\s+settings .*IRONFLOW_PORT", out, re.MULTILINE)
    assert err == "error: 1 of 7 checks found something broken\n"


def test_the_database_from_backup_to_vacuum(place: Place, bare: Place) -> None:
    place.cli("invoke", "greet", "--input", '{"name": "kept"}', "--wait", "30s")
    copy = str(bare.folder / "copy.db")
    assert place.value("db", "backup", copy, "--db", str(place.db))["url"].endswith("copy.db")
    assert "exists already" in place.error("db", "backup", copy, "--db", str(place.db), code=2)
    owner = place.error("db", "vacuum", "--dry-run", "--db", str(place.db), code=1)
    assert f"pid {place.server.pid if place.server else '?'}" in owner

    assert "is in use" in place.error("db", "restore", copy, "--db", str(place.db), code=1)
    bare.cli("db", "restore", copy, "--db", "back.db")
    again = bare.value("db", "restore", copy, "--db", "back.db")
    assert bare.value("db", "info", "--db", again["before"])["last_seq"] == again["last_seq"]
    assert "no database" in bare.error("db", "restore", "none.db", "--db", "back.db", code=1)
    assert "itself" in bare.error("db", "restore", "back.db", "--db", "back.db", code=2)

    runs = bare.value("db", "info", "--db", copy)["rows"]["runs"]
    assert runs >= 1
    assert bare.value("db", "check", "--db", copy) == {"ok": True, "findings": []}
    bare.cli("db", "export", "-o", "all.ndjson", "--db", copy)
    piped, _ = bare.cli("db", "export", "--db", copy)
    assert piped == (bare.folder / "all.ndjson").read_text()
    bare.cli("db", "import", "-", "--db", "new.db", text=piped)
    assert bare.value("db", "info", "--db", "new.db")["rows"]["runs"] == runs
    assert "exists already" in bare.error("db", "import", "all.ndjson", "--db", "new.db", code=2)

    keep_none = ["--keep-runs", "0", "--db", "new.db"]
    dry = bare.value("db", "vacuum", "--dry-run", *keep_none)
    assert (dry["dry_run"], dry["runs"] >= 1, dry["size_after"]) == (True, True, None)
    assert bare.error("db", "vacuum", *keep_none, code=2).startswith("--yes: ")
    assert bare.value("db", "info", "--db", "new.db")["rows"]["runs"] == runs
    done = bare.value("db", "vacuum", "--yes", *keep_none)
    assert done["runs"] == dry["runs"]
    assert bare.value("db", "info", "--db", "new.db")["rows"]["runs"] == runs - done["runs"]


def test_a_damaged_database_is_found(place: Place, bare: Place) -> None:
    place.cli("db", "backup", str(bare.folder / "hurt.db"), "--db", str(place.db))
    with (bare.folder / "hurt.db").open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(size - 4096)
        file.write(b"\xff" * 4096)
    out, err = bare.cli("db", "check", "--db", "hurt.db", code=1)
    assert out
    assert "restore a backup" in err
    bare.cli("db", "backup", "good.db", "--db", str(place.db))
    said = bare.error("db", "restore", "hurt.db", "--db", "good.db", code=1)
    assert re.search(r"hurt\.db(:| is) .*(damaged|malformed)", said)
    assert bare.value("db", "check", "--db", "good.db")["ok"]
    bare.cli("db", "restore", "good.db", "--db", "hurt.db")
    assert bare.value("db", "check", "--db", "hurt.db")["ok"]
