"""`@function`: a durable function, and the registry of those that a process serves."""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import CodeType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ironflow.core.durations import parse_duration
from ironflow.core.errors import InvalidInput
from ironflow.core.expressions.compiled import compile_path
from ironflow.core.expressions.patterns import validate_pattern
from ironflow.core.functions.definition import (
    Cron,
    Definition,
    Executor,
    FunctionSpec,
    Trigger,
    check_policies,
    compile_spec,
)
from ironflow.core.functions.flow_control import (
    Wanted,
    WantedLimits,
    concurrency_of,
    flow_control_of,
)
from ironflow.core.runs.entries import CancelOn, RunOptions, UnwindOutcome
from ironflow.core.runs.retry import RetryPolicy
from ironflow.core.values.codec import convert_input, json_schema
from ironflow.sdk.bodies import Body, Served
from ironflow.sdk.waits import Duration

if TYPE_CHECKING:
    from ironflow.core.runs.execution import Assignment
    from ironflow.sdk.executor import Executor as SdkExecutor

On = str | Trigger | Mapping[str, str] | Sequence[str | Trigger | Mapping[str, str]]
C = TypeVar("C")
Retry = RetryPolicy | int | dict[str, Any] | bool


class Function:
    """A durable function: the user's body with what `@function` says of it. Calling it calls the
    plain body.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        definition: Definition,
        input_type: Any,
        takes_input: bool,
    ) -> None:
        self.fn, self.definition = fn, definition
        self.input_type, self.takes_input = input_type, takes_input
        self.is_async = inspect.iscoroutinefunction(fn)
        self.spec: FunctionSpec = compile_spec(definition, self.convert)
        self.__doc__, self.__name__ = fn.__doc__, getattr(fn, "__name__", definition.id)
        self.__module__ = getattr(fn, "__module__", "")
        self.__wrapped__ = fn

    def __repr__(self) -> str:
        return f"<function {self.id!r}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*args, **kwargs)

    @property
    def id(self) -> str:
        """Its id, by which runs and events find it."""
        return self.definition.id

    @property
    def retry(self) -> RetryPolicy:
        """How often the function, and by default each of its steps, is tried."""
        return self.definition.options.retry

    def make_body(self, executor: SdkExecutor, assignment: Assignment) -> Body:
        """An execution of a run of this function."""
        from ironflow.sdk.execution import Execution

        return Execution(executor, self, assignment)

    def convert(self, data: bytes) -> Any:
        """JSON input as the declared type. Raises `InvalidInput` with the path of what is wrong."""
        return convert_input(data, self.input_type, "input")


class Registry:
    """Functions by id. Two different functions of one id are an error of the user's, told at
    once.
    """

    def __init__(self) -> None:
        self._functions: dict[str, Served] = {}

    def __len__(self) -> int:
        return len(self._functions)

    def __iter__(self) -> Iterator[Served]:
        """Every function, in the order in which they were added."""
        return iter(list(self._functions.values()))

    def add(self, function: Served) -> None:
        """Add or, when it was defined by the same code line (a module imported again), replace."""
        known = self._functions.get(function.id)
        if known is not None and _origin(known) != _origin(function):
            raise InvalidInput(
                "id",
                f"{function.id!r} is defined twice: {_place(known)} and {_place(function)}",
            )
        self._functions[function.id] = function

    def get(self, function_id: str) -> Served | None:
        """The function of an id."""
        return self._functions.get(function_id)

    def all(self) -> list[Served]:
        """Every function, by id."""
        return [self._functions[key] for key in sorted(self._functions)]

    def clear(self) -> None:
        """Forget all."""
        self._functions.clear()


registry = Registry()
"""Where `@function` puts the functions of this process."""


@overload
def function(fn: Callable[..., Any], /) -> Function: ...


@overload
def function(
    *,
    id: str | None = None,
    name: str | None = None,
    on: On | None = None,
    cron: str | None = None,
    timezone: str = "UTC",
    retry: Retry | None = None,
    timeout: Duration | None = None,
    input: Any = None,
    cancel_on: str | CancelOn | Sequence[str | CancelOn] = (),
    compensate_on: Iterable[UnwindOutcome] = ("failed",),
    executor: Executor | None = None,
    concurrency: WantedLimits = None,
    flow_control: Wanted = None,
    actor_key: str | None = None,
    labels: Mapping[str, str] | None = None,
    description: str | None = None,
) -> Callable[[Callable[..., Any]], Function]: ...


def function(
    fn: Callable[..., Any] | None = None,
    *,
    id: str | None = None,
    name: str | None = None,
    on: On | None = None,
    cron: str | None = None,
    timezone: str = "UTC",
    retry: Retry | None = None,
    timeout: Duration | None = None,
    input: Any = None,
    cancel_on: str | CancelOn | Sequence[str | CancelOn] = (),
    compensate_on: Iterable[UnwindOutcome] = ("failed",),
    executor: Executor | None = None,
    concurrency: WantedLimits = None,
    flow_control: Wanted = None,
    actor_key: str | None = None,
    labels: Mapping[str, str] | None = None,
    description: str | None = None,
) -> Any:
    """Make a durable function of `fn(ctx, input)` (or `fn(ctx)`), async or sync.

    `on`: event name patterns, or `{"event": ..., "if": filter expression}`. `cron`: a cron
    expression in
    `timezone`. `retry`: attempts, or a policy, for the function and by default for its steps.
    `timeout` bounds a run's wall time. `input`: its type, by default the annotation of the second
    parameter. `cancel_on`: events that cancel a run. `compensate_on`: the endings (`failed`,
    `cancelled`, `timed_out`) that run compensations. `executor`: where sync steps run, `thread`
    (default), `process` (they compute for long or may have to be killed; importable functions
    only) or `loop` (they must not block). `concurrency`: how many runs execute at once, or
    `{"limit": 2, "key": "data.org_id"}` for each value of a key; several must all have room.
    `flow_control`: every policy by which runs begin, `concurrency` among them
    (`ironflow.FlowControl`, or a mapping of its fields).
    `actor_key`: a path into the input such as `data.user_id`; runs with the same value there go to
    the same worker while it is there. `labels`: what the labels of a worker must say to be handed
    its runs, such as `{"gpu": "yes"}`.
    Raises `InvalidInput` naming what is wrong.
    """
    options = {k: v for k, v in locals().items() if k != "fn"}
    if fn is None:
        return lambda body: function(body, **options)
    made = define(fn, **options)
    registry.add(made)
    return made


def define(
    fn: Callable[..., Any],
    *,
    id: str | None = None,
    name: str | None = None,
    on: On | None = None,
    cron: str | None = None,
    timezone: str = "UTC",
    retry: Retry | None = None,
    timeout: Duration | None = None,
    input: Any = None,
    cancel_on: str | CancelOn | Sequence[str | CancelOn] = (),
    compensate_on: Iterable[UnwindOutcome] = ("failed",),
    executor: Executor | None = None,
    concurrency: WantedLimits = None,
    flow_control: Wanted = None,
    actor_key: str | None = None,
    labels: Mapping[str, str] | None = None,
    description: str | None = None,
) -> Function:
    """`function`, but what it makes is known to nobody: put it into a `Registry` of your own."""
    if not callable(fn):
        raise InvalidInput("function", f"{fn!r} is not a function")
    function_id = id or getattr(fn, "__name__", "").replace("_", "-")
    _check_id(function_id)
    takes_input, annotated = _signature(fn)
    input_type = input if input is not None else annotated
    definition = Definition(
        id=function_id,
        name=name or function_id,
        code=hash_code(fn),
        description=description if description is not None else inspect.getdoc(fn) or "",
        triggers=tuple(_triggers(on)),
        cron=_cron(cron, timezone),
        options=RunOptions(
            retry=RetryPolicy() if retry is None else RetryPolicy.of(retry),
            timeout=None if timeout is None else parse_duration(timeout, "timeout"),
            compensate_on=tuple(_outcomes(compensate_on)),
            cancel_on=tuple(_cancel_rules(cancel_on)),
        ),
        executor=_choice(executor, Executor, "executor") if executor is not None else None,
        input_schema=json_schema(input_type) or None,
        concurrency=concurrency_of(concurrency),
        flow_control=flow_control_of(flow_control),
        actor_key=actor_key,
        labels=_labels(labels),
    )
    return Function(fn, check_policies(definition), input_type, takes_input)


def _labels(labels: Any) -> dict[str, str]:
    given = labels or {}
    if not isinstance(given, Mapping) or not all(
        isinstance(text, str) for pair in given.items() for text in pair
    ):
        raise InvalidInput("labels", f"{labels!r} is no mapping of text to text")
    return dict(given)


def _check_id(function_id: str) -> None:
    allowed = all(ch.isalnum() or ch in "-_." for ch in function_id)
    if not function_id or len(function_id) > 200 or not allowed or not function_id.isascii():
        raise InvalidInput("id", f"{function_id!r}: use ASCII letters, digits, '-', '_' and '.'")


def _signature(fn: Callable[..., Any]) -> tuple[bool, Any]:
    parameters = list(inspect.signature(fn).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if not 1 <= len(positional) <= 2:
        raise InvalidInput("function", "must take ctx, or ctx and its input")
    if len(positional) == 1:
        return False, None
    try:
        hints = typing.get_type_hints(fn)
    except (NameError, TypeError):
        hints = {}
    hint = hints.get(positional[1].name)
    return True, None if hint is Any else hint


def _cron(expression: str | None, timezone: str) -> Cron | None:
    if expression is None:
        return None
    zone, _, rest = expression.partition(" ")
    if zone.startswith("CRON_TZ="):
        return Cron(rest.strip(), zone.removeprefix("CRON_TZ="))
    return Cron(expression, timezone)


def _triggers(on: On | None) -> Iterable[Trigger]:
    if on is None:
        return
    many = [on] if isinstance(on, str | Trigger | Mapping) else list(on)
    for item in many:
        if isinstance(item, Trigger):
            yield item
        elif isinstance(item, str):
            yield Trigger(item)
        else:
            unknown = set(item) - {"event", "if", "expression"}
            if unknown or "event" not in item:
                raise InvalidInput(
                    "on", "expected event and, if wanted, if: {'event': ..., 'if': ...}"
                )
            yield Trigger(item["event"], item.get("if") or item.get("expression"))


def _cancel_rules(rules: str | CancelOn | Sequence[str | CancelOn]) -> Iterable[CancelOn]:
    many = [rules] if isinstance(rules, str | CancelOn) else rules
    for rule in many:
        made = CancelOn(rule) if isinstance(rule, str) else rule
        if not isinstance(made, CancelOn):
            raise InvalidInput("cancel_on", f"must be an event or a CancelOn, not {made!r:.50}")
        validate_pattern(made.event, "cancel_on.event")
        if made.match is not None:
            compile_path(made.match, "cancel_on.match")
        yield made


def _outcomes(outcomes: Iterable[UnwindOutcome]) -> Iterable[UnwindOutcome]:
    if isinstance(outcomes, str):
        raise InvalidInput("compensate_on", "must be several, such as ['failed', 'cancelled']")
    for outcome in outcomes:
        yield _choice(outcome, UnwindOutcome, "compensate_on")


def _choice(value: C, choices: Any, field: str) -> C:
    known = typing.get_args(choices)
    if value not in known:
        raise InvalidInput(field, f"{value!r:.50} is none of {', '.join(known)}")
    return value


def hash_code(fn: Callable[..., Any]) -> str:
    """16 hex digits that change with the function's source, but not with comments and
    formatting.
    """
    target = inspect.unwrap(fn)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(target)))
        text = ast.dump(tree).encode()
    except (OSError, TypeError, SyntaxError):
        code = getattr(target, "__code__", None)
        text = _hash_bytecode(code) if code is not None else repr(target).encode()
    return hashlib.sha256(text).hexdigest()[:16]


def _hash_bytecode(code: CodeType) -> bytes:
    constants = [_hash_bytecode(k) if isinstance(k, CodeType) else repr(k) for k in code.co_consts]
    return repr((code.co_code, code.co_names, constants)).encode()


def _origin(made: Served) -> tuple[str, str]:
    return made.__module__, getattr(made.fn, "__qualname__", "")


def _place(made: Served) -> str:
    return ".".join(_origin(made))
