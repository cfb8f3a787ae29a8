"""The real server's OpenAPI document as a judge of answers."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any

import jsonschema


class Contract:
    """What the real API says it answers, asked of what we answer."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.seen: set[tuple[str, str]] = set()
        """(method, path template) of what was checked."""

    @cached_property
    def _paths(self) -> list[tuple[re.Pattern[str], str, dict[str, Any]]]:
        found = [
            (re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), path, operations)
            for path, operations in self.document["paths"].items()
        ]
        # /flows/filter before /flows/{id}
        return sorted(found, key=lambda each: (each[1].count("{"), each[1]))

    def operation(self, method: str, path: str) -> tuple[str, dict[str, Any]]:
        """Template and operation of a concrete path below `/api`. Raises `AssertionError`."""
        bare = path.split("?", 1)[0]
        for pattern, template, operations in self._paths:
            if method.lower() in operations and pattern.fullmatch(bare):
                return template, operations[method.lower()]
        raise AssertionError(f"the real API has no {method} {bare}")

    def check(self, method: str, path: str, body: Any) -> None:
        """The body of a success fits the schema; every field that the schema names is there.
        Raises `AssertionError` with the place and the reason.
        """
        template, operation = self.operation(method, path)
        self.seen.add((method, template))
        success = next(status for status in operation["responses"] if status.startswith("2"))
        content = operation["responses"][success].get("content", {})
        schema = content.get("application/json", {}).get("schema")
        if schema is None:
            assert body is None, f"{method} {path} answers {body!r}, not an empty body"
            return
        validator = jsonschema.Draft202012Validator(
            {**schema, "components": self.document["components"]},
            format_checker=jsonschema.FormatChecker(["uuid", "date-time"]),
        )
        problems = [
            f"{'.'.join(map(str, error.absolute_path)) or 'body'}: {error.message[:300]}"
            for error in validator.iter_errors(body)
        ]
        problems += self._missing(schema, body, "body")
        assert not problems, f"{method} {path} answers\n  " + "\n  ".join(problems)

    def _missing(self, schema: dict[str, Any], body: Any, place: str) -> list[str]:
        """Fields that the real server always sends, since its schemas have defaults for them, and
        that are not there.
        """
        schema = self._resolve(schema)
        if isinstance(body, list) and "items" in schema:
            return [
                problem
                for number, item in enumerate(body)
                for problem in self._missing(schema["items"], item, f"{place}[{number}]")
            ]
        if not isinstance(body, dict) or "properties" not in schema:
            return []
        fields = schema["properties"]
        absent = [f"{place}.{name}: is not there" for name in fields if name not in body]
        for name in fields.keys() & body.keys():
            absent += self._missing(fields[name], body[name], f"{place}.{name}")
        return absent

    def _resolve(self, schema: dict[str, Any]) -> dict[str, Any]:
        if "$ref" in schema:
            name = schema["$ref"].rsplit("/", 1)[1]
            return dict(self.document["components"]["schemas"][name])
        choices = [
            one
            for one in schema.get("anyOf", ())
            if one.get("type") != "null" and ("$ref" in one or "properties" in one)
        ]
        return self._resolve(choices[0]) if len(choices) == 1 else schema
