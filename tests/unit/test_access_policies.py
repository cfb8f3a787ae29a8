"""Names of things, and what policies decide about them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironflow.core.access.actions import ACTIONS, BUILT_IN
from ironflow.core.access.directory import Directory
from ironflow.core.access.irn import Irn, glob, matches, parse_irn
from ironflow.core.access.policies import Grant, Policy, check_policy, grant_of
from ironflow.core.errors import Conflict, InvalidInput, NotFound

ORDER = Irn("org_default", "proj_default_default", "function", "env_prod", "order.created")


def policy(name: str, effect: str, actions: str, resources: str) -> Policy:
    found = check_policy(effect, actions.split(), resources.split())
    return Policy(f"pol_{name}", name, *found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "begin with irn:ironflow:"),
        ("arn:aws:x:y:z:a:b", "begin with irn:ironflow:"),
        ("irn:ironflow", "has no organization"),
        ("irn:ironflow:o:p", "has no type"),
        ("irn:ironflow:o:p:function:e", "has no id"),
        ("irn:ironflow:o::function:e:i", "the project of .* is empty"),
        ("irn:ironflow:o:p:function:e:", "the id of .* is empty"),
        ("irn:ironflow:o:p:functoin:e:i", "no type 'functoin'"),
        ("irn:ironflow:o:p q:function:e:i", "the project 'p q'"),
        ("irn:ironflow:o:p:function:e:\x00", "the id"),
        ("irn:ironflow:o:p:function:e:order.*", "is a pattern"),
        ("irn:ironflow:o:p:function:e:" + "x" * 3000, "longer than"),
    ],
)
def test_what_is_wrong_with_a_name_is_said_by_segment(text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        parse_irn(text, "resources[2]")
    assert caught.value.field == "resources[2]"


@given(st.lists(st.text("abz.*:-", min_size=1, max_size=8), min_size=5, max_size=5))
def test_a_name_is_read_as_it_is_written(parts: list[str]) -> None:
    first = [part.replace(":", "_") for part in parts[:4]]
    name = Irn(first[0], first[1], "function", first[3], parts[4])
    assert parse_irn(str(name), pattern=True) == name


@given(st.text("ab.*", max_size=10), st.text("ab.", max_size=14))
def test_a_pattern_is_what_it_would_be_as_a_regular_expression(pattern: str, text: str) -> None:
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL)
    assert glob(pattern, text) is (expected is not None)


def test_a_pattern_of_stars_costs_no_more_than_its_text() -> None:
    assert not glob("*a" * 1000 + "b", "a" * 20_000)


def test_what_is_denied_is_denied_and_what_nothing_allows_too() -> None:
    orders = policy("orders", "allow", "functions:*", "irn:ironflow:*:*:function:*:order.*")
    stop = policy("stop", "deny", "*", "irn:ironflow:*:*:*:env_prod:order.refund")
    grant = grant_of((), [orders, stop])
    assert grant.decide("functions:invoke", ORDER) == (True, "orders", "policy orders allows it")
    refund = ORDER._replace(id="order.refund")
    assert grant.decide("functions:invoke", refund) == (False, "stop", "policy stop denies it")
    assert grant.decide("functions:invoke", refund._replace(environment="env_dev")).allowed
    for action, name in (("runs:read", ORDER), ("functions:read", ORDER._replace(id="orders"))):
        assert grant.decide(action, name) == (False, "", "nothing allows it")
    whole = policy("whole", "allow", "functions:list", "irn:ironflow:*:*:*:*:*")
    everything = ORDER._replace(id="*")
    assert grant_of((), [whole]).decide("functions:list", everything).allowed
    assert not grant_of((), [orders]).decide("functions:list", everything).allowed
    hidden = grant_of((), [whole, stop]).decide("functions:list", everything)
    assert hidden == (False, "stop", "policy stop denies it"), "a part is denied, so all is"


def test_a_denial_takes_from_a_built_in_role() -> None:
    stop = policy("stop", "deny", "runs:cancel", "irn:ironflow:*:*:run:env_prod:*")
    grant = grant_of(("developer",), [stop])
    run = Irn("org_default", "proj_default_default", "run", "env_prod", "1")
    assert not grant.decide("runs:cancel", run).allowed
    assert grant.decide("runs:cancel", run._replace(environment="env_dev")).allowed
    assert grant.decide("runs:read", run).policy == "built-in"
    assert not grant.decide("apikeys:manage", run).allowed


EFFECTS = st.sampled_from(["allow", "deny"])
SOME = st.sampled_from(["runs:read", "runs:*", "functions:invoke", "*"])
PLACES = st.sampled_from(
    [f"irn:ironflow:*:*:{kind}:*:{id_}" for kind in ("*", "run") for id_ in ("*", "a*", "ab")]
)
POLICIES = st.lists(st.tuples(EFFECTS, SOME, PLACES), max_size=6)


@given(POLICIES, st.sampled_from(["runs:read", "functions:invoke"]), st.sampled_from(["ab", "b"]))
def test_a_decision_is_the_rule_read_out_loud(
    policies: list[tuple[str, str, str]], action: str, id_: str
) -> None:
    made = [policy(f"p{n}", *parts) for n, parts in enumerate(policies)]
    name = Irn("o", "p", "run", "e", id_)

    family = action.partition(":")[0]

    def says(effect: str) -> bool:
        return any(
            one.effect == effect
            and one.actions[0] in ("*", action, f"{family}:*")
            and matches(parse_irn(one.resources[0], pattern=True), name)
            for one in made
        )

    grant = Grant(frozenset(), made)
    for _ in range(2):  # the second time from memory
        assert grant.decide(action, name).allowed is (says("allow") and not says("deny"))


@pytest.mark.parametrize(
    ("effect", "actions", "resources", "field"),
    [
        ("maybe", ["*"], ["irn:ironflow:*:*:*:*:*"], "effect"),
        ("allow", [], ["irn:ironflow:*:*:*:*:*"], "actions"),
        ("allow", ["*"], [], "resources"),
        ("allow", ["*"] * 101, ["irn:ironflow:*:*:*:*:*"], "actions"),
        ("allow", ["runs:read", "runs:raed"], ["irn:ironflow:*:*:*:*:*"], "actions[1]"),
        ("allow", ["nothing:*"], ["irn:ironflow:*:*:*:*:*"], "actions[0]"),
        ("allow", ["*"], ["irn:ironflow:*:*:*:*"], "resources[0]"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(
    effect: str, actions: list[str], resources: list[str], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_policy(effect, actions, resources)
    assert caught.value.field == field
    if field == "actions[1]":
        assert "did you mean runs:read?" in caught.value.reason


def test_built_in_roles_hold_what_they_promise() -> None:
    assert BUILT_IN["viewer"] < BUILT_IN["worker"] < BUILT_IN["developer"] < BUILT_IN["admin"]
    assert BUILT_IN["admin"] == set(ACTIONS)
    assert not any(
        action.endswith((":manage", ":emit", ":cancel")) for action in BUILT_IN["worker"]
    )
    assert grant_of(("viewer",), []).plain == BUILT_IN["viewer"], "a look-up is the decision"


def test_names_and_ids_of_the_directory() -> None:
    directory = Directory()
    made = directory.create_environment("staging", None)
    directory.apply(made, 5)
    assert (made.id, directory.environment("staging").created_at) == ("env_staging", 5)
    directory.apply(directory.delete_environment("staging"), 6)
    again = directory.create_environment("staging", None)
    assert again.id == "env_staging_2"
    with pytest.raises(NotFound):
        directory.environment("staging")
    with pytest.raises(Conflict):
        directory.change_role("admin", "root", None)
    with pytest.raises(Conflict):
        directory.create_role("viewer", [])
    with pytest.raises(InvalidInput, match="at least one"):
        directory.create_role("empty", [])
    parts = ("allow", ["*"], ["irn:ironflow:*:*:*:*:*"], "")
    directory.apply(directory.create_policy("all", *parts), 7)
    directory.apply(directory.create_role("boss", ["all"]), 8)
    with pytest.raises(Conflict, match="roles have the policy all: boss"):
        directory.delete_policy("all")
    roles = directory.role_ids(["boss", "role_boss"])
    assert roles == ("role_boss",)
    assert directory.grant(roles).decide("runs:read", ORDER).allowed
    with pytest.raises(Conflict, match="keys have the role boss: ci"):
        directory.delete_role("boss", ["ci"])
    directory.apply(directory.delete_role("boss", []), 9)
    assert not directory.grant(roles).decide("runs:read", ORDER).allowed, "it is gone"
