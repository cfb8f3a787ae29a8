"""`/openapi.json`: the OpenAPI 3.1 description, generated from the routes and their structs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from ironflow.web.problems import CONTENT_TYPE
from ironflow.web.routing import Route
from ironflow.web.wire import Problem, Refused

_PARAMETER = re.compile(r"\{(\w+)\}")
_REFERENCE = "#/components/schemas/{name}"


def describe_api(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """The document, ready to be encoded."""
    named = [kind for route in routes for kind in (route.request, route.response)]
    kinds = [kind for kind in dict.fromkeys([*named, Problem, Refused]) if kind is not None]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    schema_of = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operation = _operation(route, schema_of)
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ironflow",
            "version": version,
            "description": "Durable workflows. Moments are RFC 3339 in UTC, durations seconds; "
            "errors are problem documents (RFC 9457) with a stable `code`.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in routes)],
        "paths": paths,
        "security": [{}, {"key": []}],  # a server without keys asks for none
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route, schema_of: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "tags": [route.tag],
    }
    if route.details:
        operation["description"] = route.details
    parameters = [*_path_parameters(route), *_query_parameters(route), *_header_parameters(route)]
    if parameters:
        operation["parameters"] = parameters
    if route.request is not None:
        operation["requestBody"] = {
            "required": not route.optional_body,
            "content": {"application/json": {"schema": schema_of[route.request]}},
        }
    operation["responses"] = _responses(route, schema_of)
    return operation


def _responses(route: Route, schema_of: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    schema = {"type": "string"} if route.response is None else schema_of[route.response]
    responses: dict[str, Any] = {}
    for status, meaning in route.statuses.items():
        responses[str(status)] = {"description": meaning}
        if status != HTTPStatus.NO_CONTENT:
            responses[str(status)]["content"] = {route.content_type: {"schema": schema}}
    problem = {"content": {CONTENT_TYPE: {"schema": schema_of[Problem]}}}
    if route.plain_refusals:
        problem["content"]["application/json"] = {"schema": schema_of[Refused]}
    for status in route.refusals:
        responses[str(status)] = {"description": HTTPStatus(status).phrase, **problem}
    responses["default"] = {"description": "Any other problem", **problem}
    return dict(sorted(responses.items()))


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(route.path)
    ]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    fields = msgspec.structs.fields(route.query)
    if not fields:
        return []
    _, components = msgspec.json.schema_components([route.query])
    properties = components[route.query.__name__]["properties"]
    about = inspect.getdoc(route.query) or ""
    parameters = []
    for field in fields:
        schema = _without_null(properties[field.encode_name])
        parameter = {"name": field.encode_name, "in": "query", "schema": schema}
        if f"`{field.encode_name}" in about:
            parameter["description"] = about
        parameters.append(parameter)
    return parameters


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A query cannot say null: it leaves the parameter out."""
    schema = dict(schema)
    options = [option for option in schema.pop("anyOf", []) if option != {"type": "null"}]
    if len(options) == 1:
        schema |= options[0]
    elif options:
        schema["anyOf"] = options
    if not schema.get("default"):
        schema.pop("default", None)
    return schema


def _header_parameters(route: Route) -> list[dict[str, Any]]:
    parameters = []
    if route.keyed:
        about = "Instead of `idempotency_key` in the body."
        schema = {"type": "string", "minLength": 1, "maxLength": 500}
        parameters.append(
            {"name": "Idempotency-Key", "in": "header", "description": about, "schema": schema}
        )
    if route.content_type == "text/event-stream":
        about = "Go on after this entry: a sequence number of the journal."
        schema = {"type": "string"}
        parameters.append(
            {"name": "Last-Event-ID", "in": "header", "description": about, "schema": schema}
        )
    return parameters
