"""Settings: which variables are ours, and what is said of a value that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from ironflow.core.errors import ConfigError
from ironflow.settings import load_settings


def test_variables_of_kubernetes_are_not_settings() -> None:
    """Those that a container gets beside services called `ironflow` and `ironflow-postgres`."""
    address = "tcp://10.0.0.7:4200"
    env = {
        "IRONFLOW_SERVICE_HOST": "10.0.0.7",
        "IRONFLOW_SERVICE_PORT": "4200",
        "IRONFLOW_SERVICE_PORT_HTTP": "4200",
        "IRONFLOW_PORT": address,
        "IRONFLOW_PORT_4200_TCP": address,
        "IRONFLOW_PORT_4200_TCP_ADDR": "10.0.0.7",
        "IRONFLOW_PORT_4200_TCP_PROTO": "tcp",
        "IRONFLOW_POSTGRES_SERVICE_HOST": "10.0.0.8",
        "IRONFLOW_POSTGRES_PORT": "tcp://10.0.0.8:5432",
        "IRONFLOW_HOST": "0.0.0.0",
    }
    loaded = load_settings({}, env)
    assert (loaded.settings.host, loaded.settings.port) == ("0.0.0.0", 4200)
    assert loaded.origins["port"] == "default"
    assert load_settings({}, {**env, "IRONFLOW_PORT": "4300"}).settings.port == 4300
    with pytest.raises(ConfigError, match="there is no setting IRONFLOW_POSTGRES_PORT"):
        load_settings({}, {"IRONFLOW_POSTGRES_PORT": "5432"})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PORT", "http", "port is 'http': must be a whole number, at least 0 and at most 65535"),
        ("DURABILITY", "maybe", "durability is 'maybe': must be one of full, process"),
        ("DEV", "perhaps", "dev is 'perhaps': must be on or off"),
        ("WORKER_LEASE", "500ms", "worker_lease is 0.5: must be a duration, at least 1"),
        ("LINGER", "soon", "linger: 'soon' is not a duration"),
        ("SIGNING_KEY_ID", "x" * 101, "must be text of at most 100 characters"),
    ],
)
def test_a_wrong_value_is_told_what_it_may_be(name: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_settings({}, {f"IRONFLOW_{name}": value})
    assert error.value.message.startswith(f"env IRONFLOW_{name}: ")
    assert said in error.value.message


def test_a_secret_of_the_wrong_type_is_not_repeated(tmp_path: Path) -> None:
    file = tmp_path / "ironflow.toml"
    file.write_text("signing_key = 123456\n")
    with pytest.raises(ConfigError) as error:
        load_settings({}, {}, file)
    assert error.value.message == f"file {file}: signing_key must be text"
