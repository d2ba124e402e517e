"""docker-compose.yml, as far as it can be held to its word without Docker."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dia_server.config_file import load_settings
from dia_server.settings import Settings

ROOT = Path(__file__).parent.parent
OURS = ("server", "worker")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    content = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    found: dict[str, Any] = content["services"]
    return found


def test_nobody_else_reaches_it_and_nobody_without_a_key(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:7860:7860"]
    keys = services["server"]["environment"]["DIA_SERVER_API_KEYS"]
    # Compose puts the value in, or doesn't start without one.
    assert re.search(r"\$\{DIA_API_KEY:\?.+}", keys)
    given = re.sub(r"\$\{.+}", "0123abc", keys)
    assert load_settings(None, {"DIA_SERVER_API_KEYS": given}).api_keys == ("0123abc",)


def test_running_answers_may_end(services: dict[str, Any]) -> None:
    for name in OURS:
        assert int(services[name]["stop_grace_period"].removesuffix("s")) > Settings().drain_grace + 5


def test_both_share_a_home_a_database_and_an_image(services: dict[str, Any]) -> None:
    server, worker = (services[name] for name in OURS)
    assert server["volumes"] == worker["volumes"] == ["home:/home/dia"]
    assert "VOLUME /home/dia" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert server["image"] == worker["image"]
    url = server["environment"]["DIA_SERVER_DATABASE_URL"]
    assert worker["environment"]["DIA_SERVER_DATABASE_URL"] == url
    assert url.endswith("@database/dia")
    assert services["database"]["environment"]["POSTGRES_DB"] == "dia"


def test_a_host_has_its_name_again_after_a_restart(services: dict[str, Any]) -> None:
    assert {name: service["hostname"] for name, service in services.items()} == {name: name for name in services}
