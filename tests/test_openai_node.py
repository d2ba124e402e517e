"""OpenAI's own JavaScript client, unmodified, against a running server; skipped where node or npm's registry is not."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

import sound
from conftest import SENTENCE, Server

INSTALL_SECONDS = 60
SCRIPT = """
import OpenAI from 'openai';
import { writeFile } from 'node:fs/promises';

const [url, input] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 });

const whole = await client.audio.speech.create({ model: 'tts-1', voice: 'alloy', input });
await writeFile('whole.mp3', Buffer.from(await whole.arrayBuffer()));

const streamed = await client.audio.speech.create({
  model: 'gpt-4o-mini-tts', voice: { id: 'skylark' }, input, response_format: 'wav', stream_format: 'audio', seed: 7,
});
const chunks = [];
for await (const chunk of streamed.body) chunks.push(chunk);
await writeFile('streamed.wav', Buffer.concat(chunks));

let refused;
try {
  await client.audio.speech.create({ model: 'tts-1', voice: 'nobody', input });
} catch (error) {
  const { status, code, param, requestID } = error;
  refused = { kind: error.constructor.name, status, code, param, id: requestID };
}
const models = [];
for await (const model of client.models.list()) models.push(model.id);
const [type, seed] = [whole.headers.get('content-type'), streamed.headers.get('x-seed')];
console.log(JSON.stringify({ type, seed, refused, models }));
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the newest `openai` of npm."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("node")
    command = ["npm", "install", "openai", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=0"]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=INSTALL_SECONDS)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"npm could not install openai: {error}")
    return folder


def test_the_javascript_client(server: Server, folder: Path) -> None:
    (folder / "client.mjs").write_text(SCRIPT, encoding="utf-8")
    command = ["node", "client.mjs", server.url, SENTENCE]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["type"] == "audio/mpeg"
    assert found["seed"] == "7"
    refused = found["refused"]
    assert (refused["kind"], refused["status"]) == ("NotFoundError", 404)
    assert (refused["code"], refused["param"]) == ("voice_not_found", "voice")
    assert refused["id"]
    assert found["models"] == ["dia", "hibari", "index-tts2", "noise", "voxcpm"]
    assert sound.seconds((folder / "whole.mp3").read_bytes(), "mp3") > 1
    assert (folder / "streamed.wav").read_bytes()[44:] == server.speak(seed=7).content[44:]
