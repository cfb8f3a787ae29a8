"""The server in this process, as the tests of the API have it."""

from api.conftest import serve as serve  # noqa: PLC0414 - a fixture
