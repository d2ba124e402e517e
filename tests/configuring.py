"""How tests change the settings of a server, and read its file of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import yaml

from conftest import Server


def put(server: Server, path: str = "/config", **values: Any) -> httpx.Response:
    return httpx.put(server.url + path, json=values, timeout=60)


def file_of(server: Server) -> Path:
    return server.home / "config.yaml"


def in_file(server: Server) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(file_of(server).read_text(encoding="utf-8"))
    return content
