"""Events that are the same on two servers, and random but repeatable questions about them."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from compat.prefect.sequences import Operation

Json = dict[str, Any]
NAMES = ("order.paid", "order.sent", "order.paid.late", "door.opened", "door_closed")
COUNT = 24


def events(nonce: str) -> list[Json]:
    """What both servers are given; everything of it bears the nonce."""
    rng = random.Random(7)
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=COUNT)
    made = []
    for number in range(COUNT):
        resource: Json = {
            "prefect.resource.id": f"{nonce}.thing.{number % 5}",
            "prefect.resource.name": rng.choice(["red", "green", "blue"]),
            "colour": rng.choice(["red", "green"]),
        }
        related = [
            {
                "prefect.resource.id": f"{nonce}.owner.{number % 3}",
                "prefect.resource.role": rng.choice(["owner", "keeper"]),
                "team": rng.choice(["a", "b"]),
            }
            for _ in range(number % 3)
        ]
        occurred = start + timedelta(hours=number, microseconds=number + 1)
        made.append(
            {
                "id": f"00000000-0000-4000-8000-{rng.getrandbits(47):012x}",
                "occurred": occurred.isoformat(),
                "event": NAMES[number % len(NAMES)],
                "resource": resource,
                "related": related,
                "payload": {"number": number, "word": rng.choice(["apple", "pear"])},
            }
        )
    return made


class Questions:
    """Draws filters; each finds only what bears the nonce."""

    def __init__(self, seed: int, nonce: str, given: list[Json]) -> None:
        self.rng, self.nonce, self.given = random.Random(seed), nonce, given

    def some(self, values: list[str] | tuple[str, ...], most: int = 2) -> list[str]:
        """A few of them."""
        return self.rng.sample(values, self.rng.randint(1, most))

    def occurred(self) -> Json:
        """A window, or half of one."""
        now, hours = datetime.now(UTC), self.rng.sample(range(1, COUNT), 2)
        since, until = (now - timedelta(hours=hour, minutes=30) for hour in sorted(hours)[::-1])
        return {"since": since.isoformat(), "until": until.isoformat()}

    def event(self) -> Json:
        """By name."""
        prefixes = ("order.", "door", "order.paid")
        return self.rng.choice(
            [
                {"name": self.some(NAMES)},
                {"prefix": self.some(prefixes)},
                {"exclude_name": self.some(NAMES)},
                {"exclude_prefix": self.some(prefixes)},
                {"prefix": ["order."], "exclude_name": ["order.sent"]},
            ]
        )

    def resource(self) -> Json:
        """By what it is of; always of ours."""
        things = [f"{self.nonce}.thing.{number}" for number in range(5)]
        mine: Json = {"id_prefix": [f"{self.nonce}."]}
        return self.rng.choice(
            [
                {"id": self.some(things)},
                {"id_prefix": [f"{self.nonce}.thing.1", f"{self.nonce}.thing.2"]},
                {**mine, "labels": {"colour": "red"}},
                {**mine, "labels": {"colour": ["green"], "prefect.resource.name": "r*"}},
                {**mine, "labels": {"colour": "!red"}},
            ]
        )

    def related(self) -> Json:
        """By what it is related to."""
        owners = [f"{self.nonce}.owner.{number}" for number in range(3)]
        return self.rng.choice(
            [
                {"id": self.some(owners)},
                {"role": self.some(("owner", "keeper"), 1)},
                {"id": self.some(owners), "role": ["owner"]},
                {"labels": {"team": "a"}},
                {"resources_in_roles": [[owners[1], "owner"]]},
            ]
        )

    def filter(self) -> Json:
        """One to three conditions."""
        found: Json = {"resource": {"id_prefix": [f"{self.nonce}."]}}
        for name in self.rng.sample(["occurred", "event", "resource", "related", "id"], 2):
            if name == "id":
                found["id"] = {"id": [one["id"] for one in self.rng.sample(self.given, 5)]}
            else:
                found[name] = getattr(self, name)()
        found["order"] = self.rng.choice(["ASC", "DESC"])
        return found

    def draw(self) -> Operation:
        """A question."""
        body: Json = {"filter": self.filter()}
        if self.rng.random() < 0.25:
            countable = self.rng.choice(["event", "resource", "day"])
            return Operation("POST", f"/events/count-by/{countable}", body)
        body["limit"] = self.rng.choice([50, 50, 50, 3])
        return Operation("POST", "/events/filter", body)
