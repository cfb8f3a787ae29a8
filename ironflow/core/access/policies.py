"""Policies, and what the roles of a key come to. Pure.

A policy allows or denies actions on things. What is denied by any is denied; else what is allowed
by any is allowed; else it is denied.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal, NamedTuple

import msgspec

from ironflow.core.access.actions import ACTIONS, BUILT_IN
from ironflow.core.access.irn import Irn, matches, parse_irn
from ironflow.core.errors import InvalidInput

Effect = Literal["allow", "deny"]
MOST = 100
"""Actions and resources of one policy."""
REMEMBERED = 10_000
"""Decisions that a grant remembers."""

_FAMILIES = frozenset(name.rpartition(":")[0] for name in ACTIONS)


class Policy(msgspec.Struct, frozen=True):
    """`actions` are names, `family:*` or `*`; `resources` patterns of IRNs."""

    id: str
    name: str
    effect: Effect
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    description: str = ""


class Decision(NamedTuple):
    """Whether something may be done, and who says so: a policy, a role, or nobody."""

    allowed: bool
    policy: str
    reason: str


class Grant:
    """What a set of roles may do."""

    __slots__ = ("_known", "_statements", "plain")

    def __init__(self, plain: frozenset[str], policies: Iterable[Policy] = ()) -> None:
        """`plain`: actions on everything, from roles that are built in."""
        self._statements = [
            (policy, [parse_irn(text, pattern=True) for text in policy.resources])
            for policy in policies
        ]
        self.plain: frozenset[str] | None = None if self._statements else plain
        """The actions, where no policy has a say: then a look-up is the decision."""
        if self._statements:
            everything = Irn("*", "*", "*", "*", "*")
            whole = Policy(
                "built-in", "built-in", "allow", tuple(sorted(plain)), (str(everything),)
            )
            self._statements.append((whole, [everything]))
        self._known: dict[tuple[str, Irn], Decision] = {}

    def decide(self, action: str, resource: Irn) -> Decision:
        """What is said of an action on a thing. An id `*` means all of them: a list, or a request
        that names none; only who may do it with all may do it then.
        """
        known = self._known.get((action, resource))
        if known is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            known = self._known[action, resource] = self._decide(action, resource)
        return known

    def _decide(self, action: str, resource: Irn) -> Decision:
        if self.plain is not None:
            if action in self.plain:
                return Decision(True, "built-in", "a built-in role allows it")
            return Decision(False, "", "no role allows it")
        found: Policy | None = None
        for policy, patterns in self._statements:
            if not covers(policy.actions, action):
                continue
            if policy.effect == "deny":
                if any(_overlaps(pattern, resource) for pattern in patterns):
                    return Decision(False, policy.name, f"policy {policy.name} denies it")
            elif found is None and any(matches(pattern, resource) for pattern in patterns):
                found = policy
        if found is not None:
            return Decision(True, found.name, f"policy {found.name} allows it")
        return Decision(False, "", "nothing allows it")


def _overlaps(pattern: Irn, resource: Irn) -> bool:
    """Whether a denial touches a thing; all things (`*`) are touched by a denial of one."""
    if resource.id == "*":
        pattern = pattern._replace(id="*")
    return matches(pattern, resource)


def covers(patterns: Iterable[str], action: str) -> bool:
    """Whether an action is among these."""
    family = action.rpartition(":")[0]
    return any(one in ("*", action) or one == f"{family}:*" for one in patterns)


def check_policy(
    effect: str, actions: Iterable[str], resources: Iterable[str]
) -> tuple[Effect, tuple[str, ...], tuple[str, ...]]:
    """The parts of a policy. Raises `InvalidInput` that names the part."""
    if effect not in ("allow", "deny"):
        raise InvalidInput("effect", "must be allow or deny")
    actions, resources = tuple(actions), tuple(resources)
    for field, parts in (("actions", actions), ("resources", resources)):
        if not 1 <= len(parts) <= MOST:
            raise InvalidInput(field, f"must be 1 to {MOST}")
    for number, action in enumerate(actions):
        check_action(action, f"actions[{number}]")
    for number, text in enumerate(resources):
        parse_irn(text, f"resources[{number}]", pattern=True)
    return ("allow" if effect == "allow" else "deny"), actions, resources


def check_action(action: str, field: str = "action", *, pattern: bool = True) -> None:
    """Raises `InvalidInput` for what is no action, with the nearest one."""
    if action in ACTIONS:
        return
    if pattern and (action == "*" or (action[-2:] == ":*" and action[:-2] in _FAMILIES)):
        return
    close = difflib.get_close_matches(action, ACTIONS, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise InvalidInput(field, f"there is no action {action!r:.100}{hint}")


def grant_of(roles: Iterable[str], policies: Iterable[Policy]) -> Grant:
    """What built-in `roles` and these policies come to together."""
    plain = frozenset[str]().union(*(BUILT_IN.get(role, frozenset()) for role in roles))
    return Grant(plain, policies)
