"""How a worker talks to its server: small requests with patience, and reports that share one.

Whatever the server acknowledged is durable. Reports are safe to repeat, so they are sent again
until they are answered; the server may be away for as long as it likes.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import aiohttp
import msgspec

from ironflow.core.errors import Gone, InvalidInput, IronflowError, StaleExecution, reason_of
from ironflow.core.messages import Message
from ironflow.core.remote.reports import Answer, RecordedJob, Report, Shadow, Signals, encode_report
from ironflow.core.runs import commands as c
from ironflow.discovery import Found, credentials

T = TypeVar("T")
R = TypeVar("R")
log = logging.getLogger("ironflow.worker")

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
"""Seconds between attempts, doubling, each between half and all of it."""
ANSWER_SECONDS = 60.0
"""How long a report may take: the server waits out a full disk."""
REQUESTS_AT_ONCE = 2
"""Requests with reports under way: while one is being committed the next one is received. The
second one goes out when it is as large as the first: else what waits goes with the next, for a
request costs as much as a dozen reports.
"""
NEWEST = 0.2
"""Weight of the newest request in what is known of how long they take."""
REPORTS_AT_ONCE = 500
BYTES_AT_ONCE = 4 * 1024 * 1024

_encode = msgspec.json.Encoder().encode


class Refused(IronflowError):
    """The server said no: `status` and `detail` as it gave them."""

    code = "refused"

    def __init__(self, status: int, detail: str) -> None:
        self.status, self.detail = status, detail
        super().__init__(f"{status}: {detail}")


class _Problem(msgspec.Struct):
    detail: str = ""
    message: str = ""


class News(msgspec.Struct):
    """What a server has for a worker."""

    jobs: list[RecordedJob] = []
    signals: Signals = Signals()


class _Answers(News):
    answers: list[Answer] = []


class _Posted(NamedTuple):
    """A report on its way."""

    job_id: str
    data: bytes
    answer: asyncio.Future[Answer]


class Link:
    """One server, for one worker."""

    def __init__(
        self,
        url: str,
        worker_id: str,
        session: aiohttp.ClientSession,
        reports_path: str | None = None,
        found: Found | None = None,
    ) -> None:
        """Reports go to the worker's own path unless `reports_path` says otherwise. `found`: what
        goes along, if that is known; else it is looked for.
        """
        self.url, self.worker_id, self._session = url.rstrip("/"), worker_id, session
        self._found = found
        self._reports_path = reports_path or self.path("commands")
        self._waiting: deque[_Posted] = deque()
        self._flying: set[str] = set()
        """Jobs whose last report is not answered yet: the next one waits, reports of a job are
        taken in order.
        """
        self._senders: set[asyncio.Task[None]] = set()
        self._requests = 0
        """Those of them whose request is under way."""
        self._gathering = False
        """Whether one of them is about to take what waits."""
        self._window = 0
        self.round_trip = 0.0
        """Seconds that a request with reports takes, the newest counting most."""
        self.window: Callable[[], int] | None = None
        """How many jobs the worker takes at a time: told with reports when it changes."""
        self.hear: Callable[[News], None] = lambda news: None
        """Is told what came with the answers to reports."""

    async def request(
        self, method: str, path: str, body: Any = None, *, seconds: float = 30.0
    ) -> bytes:
        """The body of a successful answer, empty for none. Raises `Refused`, `Gone` when nothing
        answers.
        """
        data = None if body is None else (body if isinstance(body, bytes) else _encode(body))
        headers = {} if data is None else {"Content-Type": "application/json"}
        if self._found is None:
            # Not on the loop: it may read files.
            self._found = await asyncio.to_thread(credentials, self.url)
        if self._found.api_key:
            headers["Authorization"] = f"Bearer {self._found.api_key}"
        if self._found.environment:
            headers["X-Ironflow-Environment-ID"] = self._found.environment
        timeout = aiohttp.ClientTimeout(total=seconds)
        try:
            async with self._session.request(
                method, self.url + path, data=data, headers=headers, timeout=timeout
            ) as response:
                text = await response.read()
                if response.status < 400:
                    return text
                raise Refused(response.status, _detail(text))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Gone(f"{self.url}: {reason_of(error)}") from error

    def path(self, rest: str) -> str:
        """A path of this worker."""
        return f"/api/v1/workers/{self.worker_id}/{rest}"

    async def report(self, report: Report) -> Answer:
        """The answer to a report, however long that takes."""
        loop = asyncio.get_running_loop()
        posted = _Posted(report.job_id, _encode(report), loop.create_future())
        self._waiting.append(posted)
        if not self._gathering and self._may_send():
            self._gathering = True
            sender = loop.create_task(self._send())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        return await posted.answer

    def _may_send(self) -> bool:
        """Whether what waits is worth a request beside those that are under way."""
        if not self._requests:
            return True
        return self._requests < REQUESTS_AT_ONCE and len(self._waiting) >= len(self._flying)

    async def _send(self) -> None:
        """Whatever waits goes out in one request: the moment that it comes, or that one of those
        before it is answered.
        """
        while True:
            self._gathering = False
            batch = self._take()
            if not batch:
                return
            self._requests += 1
            try:
                answers = await self._deliver([posted.data for posted in batch])
            finally:
                self._requests -= 1
            for posted, answer in zip(batch, answers, strict=True):
                self._flying.discard(posted.job_id)
                if not posted.answer.done():
                    posted.answer.set_result(answer)
            if self._gathering:
                return  # another one is about to take what is there
            self._gathering = True
            # These bodies come to their next report, or to their end and the next job to its first
            # report.
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    def _take(self) -> list[_Posted]:
        """What may go out now, oldest first: nothing of a job that has reports under way."""
        batch: list[_Posted] = []
        kept: deque[_Posted] = deque()
        size = 0
        flying = set(self._flying)
        while self._waiting and len(batch) < REPORTS_AT_ONCE:
            posted = self._waiting.popleft()
            if posted.job_id in flying:
                kept.append(posted)
                continue
            if batch and size + len(posted.data) > BYTES_AT_ONCE:
                kept.append(posted)
                break
            size += len(posted.data)
            batch.append(posted)
        kept.extend(self._waiting)
        self._waiting = kept
        self._flying.update(posted.job_id for posted in batch)
        return batch

    async def _deliver(self, reports: list[bytes]) -> list[Answer]:
        body = b'{"reports":[' + b",".join(reports) + b"]" + self._say_window() + b"}"
        clock, pause = asyncio.get_running_loop().time, FIRST_PAUSE
        while True:
            began = clock()
            try:
                text = await self.request("POST", self._reports_path, body, seconds=ANSWER_SECONDS)
                self.round_trip += NEWEST * (clock() - began - self.round_trip)
                return self._open(_decode_answers(text), len(reports))
            except Refused as refusal:
                if refusal.status == 404:
                    # A server that was started anew: it has queued these runs again, and the next
                    # poll registers.
                    return [Answer(code="STALE_EXECUTION", message=refusal.detail)] * len(reports)
                if refusal.status < 500 and refusal.status not in (408, 429):
                    return [Answer(code="invalid_input", message=refusal.detail)] * len(reports)
                log.warning("the server cannot take reports now: %s", refusal)
            except Gone as error:
                log.warning("the server does not answer, reports wait: %s", error)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                log.warning("what answers at %s is not the server: %s", self.url, error)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, LONGEST_PAUSE)

    def forget_window(self) -> None:
        """The worker registers: its window is what it says there."""
        self._window = 0

    def _say_window(self) -> bytes:
        if self.window is None or (window := self.window()) == self._window:
            return b""
        self._window = window
        return b',"window":%d' % window

    def _open(self, answers: _Answers, number: int) -> list[Answer]:
        if len(answers.answers) != number:
            raise msgspec.DecodeError(f"{len(answers.answers)} answers to {number} reports")
        if answers.jobs or answers.signals:
            # Behind the bodies that these answers let go on.
            asyncio.get_running_loop().call_soon(self.hear, answers)
        return answers.answers

    async def close(self) -> None:
        """Send what waits, for as long as the server answers."""
        while self._senders:
            await asyncio.wait(self._senders)


_decode_answers = msgspec.json.Decoder(_Answers).decode


def _detail(text: bytes) -> str:
    try:
        problem = msgspec.json.decode(text, type=_Problem)
    except msgspec.DecodeError:
        return text[:200].decode("utf-8", "replace")
    return problem.detail or problem.message or text[:200].decode("utf-8", "replace")


class RemoteEffects:
    """`ironflow.core.runs.execution.Effects` of a job, over a link."""

    def __init__(self, link: Link, job_id: str, execution: int, token: str, shadow: Shadow) -> None:
        self._link, self._shadow = link, shadow
        self._lease = (job_id, execution, token)
        self.left = False
        self.over: Callable[[], None] = lambda: None
        """Is told that the body is over, before that is reported."""

    async def ask(self, command: Message[R]) -> R:
        """Report until it is recorded. Raises `StaleExecution` once the run is another's,
        `InvalidInput` for a value that the server cannot take.
        """
        if type(command) is c.EndExecution and not command.compensations:
            self.over()
        answer = await self._link.report(encode_report(*self._lease, command))
        if answer.code is None:
            self._shadow.follow(command)
            return answer.directive  # type: ignore[return-value]
        if answer.code in ("STALE_EXECUTION", "stale_execution", "not_found") and (
            answer.code != "not_found" or "function" not in (answer.message or "")
        ):
            raise StaleExecution(self._shadow.run.id, self._lease[1], -1)
        if answer.code in ("invalid_input", "invalid_expression"):
            raise InvalidInput("report", answer.message or "was refused")
        raise Refused(409, answer.message or answer.code)

    async def blob(self, digest: str) -> bytes:
        """A large value. Raises `NotFound`-like `Refused` when the server has lost it."""
        text = await self._link.request("GET", f"/api/v1/values/{digest}")
        return bytes(msgspec.json.decode(text, type=_Value).value)

    def leave(self, lost: str | None = None) -> None:
        """The body is out of memory; the worker tells the server so."""
        self.left = True


class _Value(msgspec.Struct):
    value: msgspec.Raw
