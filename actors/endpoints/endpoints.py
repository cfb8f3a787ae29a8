"""Endpoints that the server calls, and the runs that wait for them: the slots and the `Host` of
bodies that are executed behind HTTP.

A call that does not come through uses up no attempt of the function: it is made again, ever later,
and while the breaker of its endpoint is open not at all. A call that the process died under is made
again: what it had reported is in the journal.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from ironflow.actors.elsewhere.host import Elsewhere
from ironflow.actors.elsewhere.jobs import (
    Lease,
    RunNotRunning,
    check_fence,
    end_execution,
    make_job,
    new_lease,
    report,
    take_reports,
)
from ironflow.actors.endpoints.breakers import NoteFailure, NoteSuccess
from ironflow.actors.endpoints.call_slots import CallSlots
from ironflow.core.clock import Clock, to_rfc3339
from ironflow.core.errors import (
    InvalidInput,
    IronflowError,
    NotFound,
    StaleExecution,
    Suspended,
)
from ironflow.core.functions.definition import Definition, Endpoint
from ironflow.core.remote import push
from ironflow.core.remote.breaker import Breaker, BreakerStatus
from ironflow.core.remote.reports import Answer, Report
from ironflow.core.runs import commands as c
from ironflow.core.runs.execution import Assignment
from ironflow.core.values.payloads import Failure

if TYPE_CHECKING:
    from ironflow.actors.kernel.system import System

log = logging.getLogger("ironflow.push")

GRACE = 5.0
"""Seconds beyond an endpoint's time-out for which its execution may still report."""


def breaker_key(function_id: str, endpoint: Endpoint) -> str:
    """What names the breaker of a function and its endpoint."""
    return f"{function_id}|{endpoint.url}"


class Endpoints(Elsewhere, CallSlots):
    """Push functions, their queue, and the calls that are under way."""

    def __init__(
        self,
        clock: Clock,
        system: System,
        grant: Callable[[str], None],
        knows: Callable[[str], bool],
        caller: push.Caller | None = None,
    ) -> None:
        """`grant(run_id)` tells a run that it may be sent; `knows` whether anything executes a
        function. Without a `caller` nothing is sent.
        """
        Elsewhere.__init__(self, clock, system, knows)
        CallSlots.__init__(self, grant)
        self.caller = caller
        self.breakers: dict[str, Breaker] = {}
        """By key, as the gates know them."""
        self.callback: str | None = None
        """Where endpoints may report while they work."""
        self.closed = False

    # -- functions --------------------------------------------------------------------------------

    def add(self, definition: Definition) -> None:
        """See `Elsewhere`."""
        endpoint = definition.endpoint
        if endpoint is None:
            raise InvalidInput("endpoint", "a push function needs one")
        super().add(definition)
        self.place(definition.id, endpoint.url, endpoint.concurrency)
        self.system.loop.call_soon(self.pump, endpoint.url)

    def remove(self, function_id: str) -> None:
        """See `Elsewhere`."""
        super().remove(function_id)
        self.place(function_id, None)

    def endpoint(self, function_id: str) -> Endpoint | None:
        """Where a function is."""
        spec = self._specs.get(function_id)
        return spec.definition.endpoint if spec is not None else None

    def held_up(self, function_id: str) -> str | None:
        """Why nothing is sent to a function's endpoint now, if so."""
        endpoint = self.endpoint(function_id)
        breaker = self._breaker(function_id)
        if endpoint is None or breaker is None or breaker.status is not BreakerStatus.OPEN:
            return None
        until = "an operator closes it" if breaker.until is None else to_rfc3339(breaker.until)
        why = f" ({breaker.last_failure})" if breaker.last_failure else ""
        return f"the circuit breaker of {endpoint.url} is open until {until}{why}"

    def _breaker(self, function_id: str) -> Breaker | None:
        endpoint = self.endpoint(function_id)
        return self.breakers.get(breaker_key(function_id, endpoint)) if endpoint else None

    def set_gate(self, key: str, breaker: Breaker) -> None:
        """A breaker has changed."""
        self.breakers[key] = breaker
        self.system.loop.call_soon(self.pump, key.partition("|")[2])

    def uses(self, key: str) -> bool:
        """See `Gates`: whether this is the breaker of a function where it is now."""
        function_id, _, url = key.partition("|")
        endpoint = self.endpoint(function_id)
        return endpoint is not None and endpoint.url == url

    def drop_gate(self, key: str) -> None:
        """See `Gates`."""
        self.breakers.pop(key, None)

    def release(self, run_id: str, waits: bool = False) -> None:
        """See `CallSlots`; nobody may report any more."""
        self.close_lease(run_id)
        super().release(run_id, waits)

    def close(self) -> None:
        """Send nothing any more: the process is draining."""
        self.closed = True

    def allowance(self, function_id: str) -> int:
        """See `CallSlots`."""
        endpoint, breaker = self.endpoint(function_id), self._breaker(function_id)
        if endpoint is None or self.closed or self.caller is None:
            return 0
        if breaker is not None and breaker.status is BreakerStatus.OPEN:
            return 0
        if breaker is not None and breaker.status is BreakerStatus.HALF_OPEN:
            return 1  # a probe
        return endpoint.concurrency

    # -- the Host ---------------------------------------------------------------------------------

    def start(self, assignment: Assignment) -> None:
        """Send an execution."""
        self.rows.settle(assignment.run_id)
        endpoint = self.endpoint(assignment.function_id)
        if endpoint is None or self.caller is None or self.closed:
            assignment.effects.leave()
            return
        expires_at = self.system.loop.time() + endpoint.timeout + GRACE
        lease = new_lease(assignment, endpoint.url, expires_at, self.clock.now())
        self.leases[assignment.run_id] = lease
        _ = self._spawn(self._send(lease, endpoint, self.caller))

    def wake(self, run_id: str, execution: int, key: str | None) -> bool:
        """Never: nothing can be told to an endpoint while it works."""
        return False

    def cancel(self, run_id: str, execution: int) -> None:
        """Unwind an execution. What one with our executor has done is awaited, and then it is sent
        anew to compensate; nobody waits for another.
        """
        lease = self._held(run_id, execution)
        if lease is None:
            return
        endpoint = self.endpoint(lease.assignment.function_id)
        if endpoint is None or endpoint.reports != "commands":
            self.close_lease(run_id, lease)
            end = c.EndExecution(execution=execution, outcome="unwound")
            _ = self._spawn(end_execution(lease.assignment, end))

    def drop(self, run_id: str) -> None:
        """The execution no longer owns the run."""
        self.close_lease(run_id)

    def close_lease(self, run_id: str, lease: Lease | None = None) -> None:
        """The execution is over: whatever is still said of it is refused."""
        held = self.leases.get(run_id)
        if held is not None and (lease is None or held is lease):
            del self.leases[run_id]

    def came_to_nothing(self, lease: Lease) -> None:
        """The answer says nothing new: it is as good as none. Raises `InvalidInput`."""
        raise InvalidInput("answer", "recorded nothing new and did not end the run")

    def find_lease(self, job_id: str, execution: int, token: str) -> Lease:
        """The lease that an endpoint means. Raises `StaleLease`."""
        return check_fence(self.leases.get(job_id.rpartition(".")[0]), job_id, execution, token)

    # -- a call -----------------------------------------------------------------------------------

    async def _send(self, lease: Lease, endpoint: Endpoint, caller: push.Caller) -> None:
        assignment = lease.assignment
        key = breaker_key(assignment.function_id, endpoint)
        try:
            by_commands = endpoint.reports == "commands"
            spec = self.spec(assignment.function_id)
            job = await make_job(lease, spec, by_commands, self.clock, self.secrets)
            callback = self.callback if by_commands else None
            values = await _large_values(assignment) if by_commands else {}
            body = push.invocation(job, callback, values)
            reply = await caller.call(endpoint.url, body, endpoint.timeout)
            if reply.status != 200:
                await self._fail(lease, endpoint, f"answered {reply.status}", reply.retry_after)
                return
            outcome = push.decode_outcome(reply.body)
            await self._take(lease, outcome)
        except (push.CallFailure, InvalidInput, NotFound) as error:
            await self._fail(lease, endpoint, str(error), None)
            return
        except (IronflowError, Suspended) as error:
            log.debug("run %s: its answer came too late: %s", assignment.run_id, error)
        except Exception as error:
            # A mistake of ours. The run waits like after any other failure, instead of being sent
            # again at once and without end.
            log.exception("run %s could not be sent", assignment.run_id)
            await self._fail(lease, endpoint, f"could not be called: {error!r:.200}", None)
            return
        finally:
            if self.leases.get(assignment.run_id) is lease:
                self.close_lease(assignment.run_id, lease)
                assignment.effects.leave()
        self.system.ref("breaker", key).post(NoteSuccess())

    async def _take(self, lease: Lease, outcome: push.Outcome) -> None:
        """Record an answer. Raises `InvalidInput` for one that makes no sense."""
        assignment = lease.assignment
        if outcome.status == "reports":
            await self._take_reports(lease, outcome.reports)
            return
        update = push.update_of(outcome, assignment.execution, lease.token)
        try:
            await report(self, lease, update)
        except RunNotRunning as error:
            log.debug("run %s: %s", assignment.run_id, error)

    async def _take_reports(self, lease: Lease, reports: Sequence[Report]) -> None:
        """Record what an executor of ours did, in order. Results of steps are requested together:
        what was done counts, whatever becomes of the run. All else rests on the answer to what is
        before it, and is left out once the run was to stop. Raises `InvalidInput`.
        """

        def find(one: Report) -> Lease:
            if one.job_id != lease.job_id:
                raise InvalidInput("reports", f"speak of {one.job_id!r:.80}, not of this job")
            return self.find_lease(one.job_id, one.execution_seq, one.lease_token)

        goes_on = True
        for is_result, group in groupby(reports, lambda one: one.command == "record_step"):
            for batch in [tuple(group)] if is_result else [(one,) for one in group]:
                if not goes_on and not is_result:
                    continue
                for answer in await take_reports(self, find, batch):
                    if answer.code is not None:
                        self._refuse(lease, answer)
                        return
                    goes_on = goes_on and answer.directive not in ("suspend", "unwind")
        if self.leases.get(lease.assignment.run_id) is lease and not lease.has_progressed:
            self.came_to_nothing(lease)

    def _refuse(self, lease: Lease, answer: Answer) -> None:
        """A report was refused. That it came too late is nobody's fault; anything else makes the
        whole answer worth nothing. Raises `InvalidInput`.
        """
        if self.leases.get(lease.assignment.run_id) is lease and answer.code != StaleExecution.code:
            raise InvalidInput("answer", answer.message or answer.code or "was refused")

    async def _fail(
        self, lease: Lease, endpoint: Endpoint, reason: str, retry_after: float | None
    ) -> None:
        """A call did not come through: it is tried again, or waits for the breaker."""
        assignment = lease.assignment
        key = breaker_key(assignment.function_id, endpoint)
        log.warning("run %s: %s %s", assignment.run_id, endpoint.url, reason)
        note = NoteFailure(f"{endpoint.url} {reason}"[:500], endpoint.breaker)
        try:
            status = await self.system.ref("breaker", key).ask(note, timeout=None, trusted=True)
            if status is not BreakerStatus.CLOSED:
                return  # the run waits in the queue, and no attempt is used up
            failure = Failure(
                "EndpointFailed", f"{endpoint.url} {reason}", "endpoint_failed", retryable=True
            )
            end = c.EndExecution(
                execution=assignment.execution,
                outcome="failed",
                error=failure,
                retry_after=retry_after,
                undelivered=True,
            )
            await assignment.effects.ask(end)
            self.close_lease(assignment.run_id, lease)
        except (IronflowError, Suspended) as error:
            log.debug("run %s: %s", assignment.run_id, error)

    async def stop(self) -> None:
        """See `Elsewhere`; nothing is sent any more."""
        self.closed = True
        await super().stop()


async def _large_values(assignment: Assignment) -> dict[str, bytes]:
    """What the record refers to and does not hold itself."""
    values = {}
    for payload in (assignment.input, *(step.result for step in assignment.steps.values())):
        if payload is not None and payload.blob is not None and payload.blob not in values:
            values[payload.blob] = await assignment.effects.blob(payload.blob)
    return values
