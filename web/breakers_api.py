"""Circuit breakers of endpoints: look, open, close, reset. And what endpoints report meanwhile."""

from __future__ import annotations

from ironflow.actors.elsewhere.jobs import Lease, take_reports
from ironflow.actors.endpoints.breakers import Speak
from ironflow.core.errors import NotFound
from ironflow.core.remote.breaker import Breaker, Word
from ironflow.core.remote.reports import Report
from ironflow.web.queries import Query
from ironflow.web.routing import Answer, Call, Handle, Route
from ironflow.web.views import moment
from ironflow.web.wire.endpoints import BreakerPage, BreakerView
from ironflow.web.wire.runs import ReasonRequest
from ironflow.web.wire.workers import AnswersView, ReportsRequest


def breaker_view(key: str, breaker: Breaker) -> BreakerView:
    """A breaker on the wire."""
    function_id, _, endpoint = key.partition("|")
    return BreakerView(
        key=key,
        function_id=function_id,
        endpoint=endpoint,
        state=breaker.status.value,
        consecutive_fails=breaker.failures,
        open_until=moment(breaker.until),
        last_failure=breaker.last_failure,
        last_failure_at=moment(breaker.last_failure_at),
    )


async def list_breakers(call: Call[Query, None]) -> Answer:
    """Every breaker, by key."""
    known = sorted(call.engine.endpoints.breakers.items())
    return 200, BreakerPage(items=[breaker_view(key, breaker) for key, breaker in known])


def _steer(word: Word, summary: str) -> Route:
    async def steer(call: Call[Query, ReasonRequest]) -> Answer:
        key = call.path["key"]
        if key not in call.engine.endpoints.breakers:
            raise NotFound("circuit breaker", key)
        await call.engine.system.ref("breaker", key).ask(Speak(word))
        return 200, breaker_view(key, call.engine.endpoints.breakers[key])

    handle: Handle = steer
    return Route(
        method="POST",
        path=f"/api/v1/circuit-breakers/{{key}}/{word}",
        handle=handle,
        name=f"{word}_breaker",
        summary=summary,
        tag="endpoints",
        request=ReasonRequest,
        optional_body=True,
        response=BreakerView,
        statuses={200: "The breaker as it is now"},
        problems=(404, 429, 503, 507),
    )


async def report_execution(call: Call[Query, ReportsRequest]) -> Answer:
    """Reports of endpoints with our executor, while they work; each has an answer of its own."""
    endpoints = call.engine.endpoints

    def find(one: Report) -> Lease:
        return endpoints.find_lease(one.job_id, one.execution_seq, one.lease_token)

    answers = await take_reports(endpoints, find, call.body.reports)
    return 200, AnswersView(answers=answers)


ROUTES = (
    Route(
        method="GET",
        path="/api/v1/circuit-breakers",
        handle=list_breakers,
        summary="List circuit breakers",
        tag="endpoints",
        response=BreakerPage,
        statuses={200: "Every breaker, by key"},
    ),
    _steer("open", "Send nothing to an endpoint until it is closed by hand"),
    _steer("close", "Send to an endpoint again"),
    _steer("reset", "Forget the failures of an endpoint"),
    Route(
        method="POST",
        path="/api/v1/executions/commands",
        handle=report_execution,
        summary="Report what happened in an execution behind an endpoint",
        tag="endpoints",
        request=ReportsRequest,
        response=AnswersView,
        statuses={200: "An answer to each report"},
        problems=(429, 503),
    ),
)
