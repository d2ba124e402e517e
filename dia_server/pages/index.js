"use strict";

const at = (id) => document.getElementById(id);
const key = () => (at("key").value ? { Authorization: `Bearer ${at("key").value}` } : {});

async function answerOf(response) {
  if (response.ok) return response;
  if (response.status === 401) at("key-label").hidden = false;
  const body = await response.json().catch(() => ({}));
  throw new Error(body.detail ?? `${response.status} ${response.statusText}`);
}

async function showHealth() {
  const health = await (await fetch("/health")).json();
  at("health").textContent = `${health.status}, version ${health.version}`;
}

async function listVoices() {
  const list = await (await answerOf(await fetch("/voices", { headers: key() }))).json();
  at("voice").replaceChildren(...list.voices.map((voice) => new Option(voice.name, voice.id)));
}

async function speak(event) {
  event.preventDefault();
  if (!at("voice").value) await listVoices();
  at("said").textContent = "Speaking…";
  const seed = at("seed").value === "" ? null : Number(at("seed").value);
  const response = await answerOf(await fetch("/v1/audio/speech", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...key() },
    body: JSON.stringify({ input: at("text").value, voice: at("voice").value, response_format: "mp3", seed }),
  }));
  URL.revokeObjectURL(at("audio").src);
  at("audio").src = URL.createObjectURL(await response.blob());
  at("audio").hidden = false;
  await at("audio").play().catch(() => {});
  at("said").textContent = `Seed ${response.headers.get("X-Seed")}, model ${response.headers.get("X-Model")}`;
}

const told = (work) => (...given) => work(...given).catch((error) => { at("said").textContent = error.message; });

at("base").textContent = `${location.origin}/v1`;
at("speak").addEventListener("submit", told(speak));
at("key").addEventListener("change", told(listVoices));
told(showHealth)();
told(listVoices)();
