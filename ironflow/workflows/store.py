"""`ctx.store`: the state of a run that its steps share. Every change is in the journal.

The store is a mapping (`DictState`) or the model that steps name in `Context[Model]`. Changes are
visible to the other steps of the run at once and are recorded, in the order in which they were
made, with the next commit of the run: at the latest with the result of the step that made them.
What is recorded is the difference, so that a list that grows by one item costs one item.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel

from ironflow.core.workflows.fold import change_store
from ironflow.core.workflows.state import Change, Echo
from ironflow.workflows.codec import Keeper
from ironflow.workflows.differences import diff, diff_key, in_order
from ironflow.workflows.errors import ContextStateError
from ironflow.workflows.events import Event
from ironflow.workflows.stored import decode_stored, encode_stored, makes_components

S = TypeVar("S")
MISSING: Any = object()


class DictState(Event):
    """A state without a type: a mapping whose keys are attributes, too."""


Record = Callable[[tuple[Change, ...], tuple[Change, ...]], None]
Settle = Callable[[], Awaitable[None]]


class Claims:
    """What a step did to the store before, as far as it is recorded (see `Echo`)."""

    def __init__(self, echoes: Iterator[Echo]) -> None:
        self._left = [echo for echo in echoes if echo.kind == "store"]
        self._left.reverse()

    def next(self) -> Echo | None:
        """The next change, if there is one; it stays."""
        return self._left[-1] if self._left else None

    def undo(self) -> tuple[Change, ...]:
        """What leads back to before the next change."""
        return tuple(change for echo in self._left for change in echo.undo)

    def drop(self) -> None:
        """It has been done again."""
        self._left.pop()


class LiveState:
    """The state of a run in memory: the object that steps see, and its JSON tree."""

    def __init__(
        self, tree: dict[str, Any], kind: type | None, keeper: Keeper | None = None
    ) -> None:
        self.tree, self.kind, self.keeper = tree, kind, keeper
        self.editing: asyncio.Task[Any] | None = None
        if tree or kind is not None:
            self.value = self._restore(tree)

    @cached_property
    def value(self) -> Any:
        """What steps see; most runs never look."""
        return self._restore(self.tree)

    @cached_property
    def lock(self) -> asyncio.Lock:
        """Held by whoever edits."""
        return asyncio.Lock()

    def _restore(self, tree: dict[str, Any]) -> Any:
        fields = {key: decode_stored(each, self.keeper) for key, each in tree.items()}
        if self.kind is None:
            return DictState(**fields)
        made = self.kind()
        if _is_closed(self.kind):
            # As it was stored: neither validated again, nor kept from it by a model that is frozen.
            # What the model has no field for any more is left behind.
            known = self.kind.model_fields  # type: ignore[attr-defined]
            return made.model_copy(update={k: v for k, v in fields.items() if k in known})
        for name, each in fields.items():
            setattr(made, name, each)
        return made

    def fitted(self, key: str, value: Any) -> Any:
        """A top-level value as the state takes it. Raises `ValueError` for what it does not take:
        a key that its model does not have, or a value that it validates and refuses.
        """
        if not _is_closed(self.kind):
            return value
        if key not in self.kind.model_fields:  # type: ignore[union-attr]
            raise ValueError(f"the state {self.kind.__name__} has no field {key!r}")  # type: ignore[union-attr]
        probe = self.value.model_copy()
        setattr(probe, key, value)
        return getattr(probe, key)

    def items(self, value: Any) -> dict[str, Any]:
        """The top-level keys of a state, with their values."""
        if isinstance(value, DictState) or (self.kind is None and hasattr(value, "_data")):
            return dict(value._data)
        if isinstance(value, BaseModel):
            found = {name: getattr(value, name) for name in type(value).model_fields}
            found |= dict(getattr(value, "_data", None) or value.__pydantic_extra__ or {})
            return found
        return dict(value)

    def encode(self, key: str, value: Any) -> Any:
        """A top-level value as JSON tree. Raises `NotSerializable` naming the key."""
        where = f"store key {key!r}"
        if not key.isascii():
            encode_stored(key, where)
        return encode_stored(value, where, self.keeper)

    def copied(self, value: Any) -> Any:
        """A copy that the caller may change. Components, and objects without a stored form (a
        client, a lock), are one of their kind and are handed out themselves.
        """
        if value is None or type(value) in (str, int, float, bool, bytes):
            return value
        only = self.keeper.only() if self.keeper is not None else {}
        only |= {id(each): each for each in self.items(self.value).values() if _is_component(each)}
        try:
            return copy.deepcopy(value, only)
        except Exception:  # noqa: BLE001 - an object inside of a model, say
            return value

    def encoded(self, value: Any) -> dict[str, Any]:
        """A state as JSON tree. Raises `NotSerializable`."""
        return {key: self.encode(key, each) for key, each in self.items(value).items()}

    def replace(self, value: Any) -> tuple[tuple[Change, ...], tuple[Change, ...]]:
        """Make `value` the state; what changed, and what leads back. Raises `NotSerializable`, and
        then nothing has changed.
        """
        changes, undo = diff(self.tree, self.encoded(value), [])
        self.value = value
        self._apply(changes)
        return tuple(changes), tuple(undo)

    def replace_key(self, key: str, value: Any) -> tuple[tuple[Change, ...], tuple[Change, ...]]:
        """Note that one top-level value is (or may be) another."""
        changes, undo = diff_key(self.tree, key, self.encode(key, value))
        self._apply(changes)
        return tuple(changes), tuple(undo)

    def _apply(self, changes: list[Change]) -> None:
        change_store(self.tree, tuple(changes))

    def tree_before(self, undo: tuple[Change, ...]) -> dict[str, Any]:
        """A copy of the tree with some changes taken back, as far as they still can be."""
        tree = copy.deepcopy(self.tree)
        for change in undo:
            try:
                change_store(tree, (change,))
            except (LookupError, TypeError, ValueError):
                continue  # another step has changed the place since
        return tree

    def before(self, undo: tuple[Change, ...]) -> Any:
        """A copy of the state with some changes taken back."""
        return self._restore(self.tree_before(undo))


def take_note(_changes: Any, _undo: Any) -> None:
    """No run is under way whose journal should have a change."""


def _allow() -> None:
    """The check of a store that may always be changed."""


class StateStore(Generic[S]):
    """The store as one execution of a step sees it, or whoever holds the run's handler.

    `settle` is awaited after each change; `check` is called before one, and may
    raise: nothing has changed then.
    """

    def __init__(
        self,
        live: LiveState,
        record: Record,
        claims: Claims | None = None,
        settle: Settle | None = None,
        check: Callable[[], None] = _allow,
    ) -> None:
        self._live, self._record, self._settle = live, record, settle
        self._check = check
        self._claims = claims or Claims(iter(()))
        self._lent: set[str] = set()
        """Top-level keys whose components this execution holds and may have changed."""

    async def get(self, path: str, default: Any = MISSING) -> Any:
        """The value at a dotted path (`user.names.0`), of an empty one the whole state. Raises
        `ValueError` when there is none and no default.
        """
        if not path:
            return await self.get_state()
        value = _find(self._seen(), path)
        if value is MISSING:
            if default is MISSING:
                raise ValueError(f"the store has no {path!r}")
            return default
        if _is_component(value):
            self._lent.add(path.partition(".")[0])
            held = _find(self._live.value, path)
            return value if held is MISSING else held
        return self._live.copied(value)

    def _seen(self) -> Any:
        """The state as this execution is to see it. One that repeats what is recorded sees what it
        saw the first time, so that it does the same again.
        """
        if self._claims.next() is None:
            return self._live.value
        return self._live.before(self._claims.undo())

    async def set(self, path: str, value: Any) -> None:
        """Set the value at a dotted path. Raises `ValueError` for a path that leads nowhere,
        `NotSerializable` for a value that cannot be stored.
        """
        if not path:
            raise ValueError("the path must not be empty")
        live = self._live
        async with live.lock:
            self._check()
            top = path.partition(".")[0]
            if self._claims.next() is not None and self._is_done(path, value):
                return
            changed = self._changed(live.value, path, value)
            changes, undo = live.replace_key(top, changed)
            if _is_component(changed):
                self._lent.add(top)
                _put(live.value, top, changed)
            else:
                _put(live.value, top, live.copied(changed))
            if changes:
                self._record(changes, undo)
        await self._settled()

    async def _settled(self) -> None:
        if self._settle is not None:
            await self._settle()

    def _changed(self, state: Any, path: str, value: Any) -> Any:
        """What a state's top-level value is once the value at a path is another."""
        live = self._live
        top, *keys = path.split(".")
        changed: Any = value
        if keys:
            held = _child(state, top)
            changed = {} if held is MISSING else live.copied(held)
            _assign(changed, keys, value, path)
        return live.fitted(top, changed)

    def _is_done(self, path: str, value: Any) -> bool:
        """Whether setting the value at a path repeats what is recorded already, or what changed
        nothing and so was not recorded.
        """
        live, top = self._live, path.partition(".")[0]
        new = live.encode(top, self._changed(self._seen(), path, value))
        return self._repeats(lambda tree: diff_key(tree, top, new)[0], top)

    def _repeats(self, make: Callable[[dict[str, Any]], list[Change]], top: str | None) -> bool:
        """Whether the changes that are made of the tree as it was before are those that come next
        in the record. Others take their place: of one top-level key, or (None) of any.
        """
        echo = self._claims.next()
        assert echo is not None
        changes = make(self._live.tree_before(self._claims.undo()))
        if not changes:
            return True
        same = in_order(changes) == in_order(echo.changes)
        if same or top is None or any(path[:1] == [top] for _, path, *_ in echo.changes):
            self._claims.drop()
        return same

    async def get_state(self) -> S:
        """A copy of the whole state."""
        return cast(S, self._live.copied(self._seen()))

    async def set_state(self, state: S) -> None:
        """Make `state` the whole state; one of a base of the state's class is its part of it.
        Raises `ValueError` for one of another type.
        """
        live = self._live
        kind = live.kind or DictState
        is_whole = isinstance(state, kind) or (
            live.kind is None and isinstance(getattr(state, "_data", None), dict)
        )
        if not is_whole and not _is_base(type(state), kind):
            raise ValueError(f"the state must be a {kind.__name__}, not {type(state).__name__}")
        async with live.lock:
            new = live.copied(state)
            self._commit(new if is_whole else live.value.model_copy(update=live.items(new)))
        await self._settled()

    async def clear(self) -> None:
        """Begin anew."""
        live = self._live
        async with live.lock:
            self._commit((live.kind or DictState)())
        await self._settled()

    def _commit(self, value: Any) -> None:
        live = self._live
        self._check()
        if self._claims.next() is not None:
            new = live.encoded(value)
            if self._repeats(lambda tree: diff(tree, new, [])[0], None):
                return
        made, undo = live.replace(value)
        if made:
            self._record(made, undo)

    @asynccontextmanager
    async def edit_state(self) -> AsyncIterator[S]:
        """A copy to change; at the end of the block it becomes the state. One block at a time;
        what raises changes nothing. Raises `ContextStateError` for a block inside a block.
        """
        live, task = self._live, asyncio.current_task()
        if live.editing is not None and live.editing is task:
            raise ContextStateError("edit_state was entered inside of edit_state")
        async with live.lock:
            live.editing = task
            try:
                if self._claims.next() is None:
                    state = live.copied(live.value)
                    yield cast(S, state)
                    self._commit(state)
                    await self._settled()
                    return
                # Done before, and recorded: the block sees what it saw, and has no second effect.
                state = live.before(self._claims.undo())
                shown = live.encoded(state)  # with the defaults of a model, which no tree has
                yield cast(S, state)
                after = live.encoded(state)
                if not self._repeats(lambda tree: diff(tree, after, [])[0], None):
                    self._redo(diff(shown, after, [])[0])
            finally:
                live.editing = None

    def _redo(self, changes: list[Change]) -> None:
        """This time the block did something else: that holds."""
        live = self._live
        self._check()
        tree = copy.deepcopy(live.tree)
        for change in changes:
            try:
                change_store(tree, (change,))
            except (LookupError, TypeError):
                continue
        made, undo = diff(live.tree, tree, [])
        live.value = live._restore(tree)
        live._apply(made)
        if made:
            self._record(tuple(made), tuple(undo))

    def take_back(self, *, keep: bool) -> None:
        """The step is over: what it changed in components that it held is recorded (`keep`), or
        was in vain, since the step will be executed again.
        """
        live = self._live
        for top in sorted(self._lent):
            value = _child(live.value, top)
            if value is MISSING:
                continue
            if keep:
                changes, undo = live.replace_key(top, value)
                if changes:
                    self._record(changes, undo)
            elif top in live.tree:
                _put(live.value, top, decode_stored(live.tree[top], live.keeper))
        self._lent.clear()

    def to_dict(self) -> dict[str, Any]:
        """The state as a plain mapping."""
        return self._live.items(self._live.value)


def _is_component(value: Any) -> bool:
    return makes_components(type(value))


def _is_base(kind: type, of: type) -> bool:
    """Whether a state's class derives from this model."""
    return kind is not BaseModel and issubclass(kind, BaseModel) and issubclass(of, kind)


def _is_closed(kind: type | None) -> bool:
    """Whether a state is a model that takes nothing but its own fields."""
    return (
        kind is not None
        and issubclass(kind, BaseModel)
        and kind.model_config.get("extra") != "allow"
        and "_data" not in kind.__private_attributes__
    )


def _find(value: Any, path: str) -> Any:
    """The value at a dotted path, or `MISSING`."""
    for part in path.split("."):
        value = _child(value, part)
    return value


def _child(value: Any, part: str) -> Any:
    if isinstance(value, DictState):
        return value._data.get(part, MISSING)
    if isinstance(value, dict):
        if part in value:
            return value[part]
        return value.get(int(part), MISSING) if part.isdecimal() else MISSING
    if isinstance(value, list | tuple):
        if part.lstrip("-").isdecimal() and -len(value) <= int(part) < len(value):
            return value[int(part)]
        return MISSING
    return getattr(value, part, MISSING) if value is not MISSING else MISSING


def _put(value: Any, part: str, new: Any) -> None:
    if isinstance(value, DictState):
        value._data[part] = new
    elif isinstance(value, dict):
        value[part] = new
    elif isinstance(value, list):
        value[int(part)] = new
    else:
        setattr(value, part, new)


def _assign(value: Any, keys: list[str], new: Any, path: str) -> None:
    for key in keys[:-1]:
        inner = _child(value, key)
        if inner is MISSING:
            inner = {}
            _try_put(value, key, inner, path)
        value = inner
    _try_put(value, keys[-1], new, path)


def _try_put(value: Any, key: str, new: Any, path: str) -> None:
    try:
        _put(value, key, new)
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path!r} cannot be set: {error}") from error
