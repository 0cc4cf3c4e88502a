// The server's routes. Every answer that is no success becomes an ApiError with the server's own words.

import { capital } from "./words.js";

export class ApiError extends Error {
  constructor(status, error) {
    super(capital(error.message));
    this.status = status; // 0: there was no answer at all
    this.code = error.code;
    this.details = error.details ?? {};
  }
}

// Seeds go up to 2^63, which a JavaScript number cannot hold: long ones are kept as text, both ways.
const readSeeds = (text) => text.replace(/"seed":\s*(\d{16,})/g, '"seed":"$1"');
const writeSeeds = (text) => text.replace(/"seed":"(\d+)"/g, '"seed":$1');

export class Api {
  constructor(token, onRefused) {
    this.token = token;
    this.onRefused = onRefused; // called when the server does not take the token
  }

  ready = () => this.json("/v1/ready");
  capabilities = () => this.json("/v1/capabilities");
  job = (id, after = null) => this.json(`/v1/jobs/${id}${after === null ? "" : `?after=${after}`}`);
  jobs = (limit, before = null) =>
    this.json(`/v1/jobs?limit=${limit}${before ? `&before=${encodeURIComponent(before)}` : ""}`);
  cancel = (id) => this.json(`/v1/jobs/${id}/cancel`, { method: "POST" });
  remove = (id) => this.fetch(`/v1/jobs/${id}`, { method: "DELETE" });
  download = (preset) => this.json(`/v1/presets/${encodeURIComponent(preset)}/download`);
  cancelDownload = (preset) =>
    this.json(`/v1/presets/${encodeURIComponent(preset)}/download/cancel`, { method: "POST" });
  artifact = async (id, name) => (await this.fetch(`/v1/jobs/${id}/artifacts/${name}`)).blob();

  unload(wait) {
    const headers = { "Content-Type": "application/json" };
    return this.json("/v1/unload", { method: "POST", headers, body: JSON.stringify({ wait }) });
  }

  // Whoever calls this has shown the licences.
  startDownload(preset) {
    const headers = { "Content-Type": "application/json" };
    const body = JSON.stringify({ accept_license: true });
    return this.json(`/v1/presets/${encodeURIComponent(preset)}/download`, { method: "POST", headers, body });
  }

  // `key` is the same for every try of one order, so that the server makes one job of them.
  submit(picture, options, key) {
    const body = new FormData();
    body.append("image", picture, picture.name || "picture.png");
    body.append("options", writeSeeds(JSON.stringify(options)));
    return this.json("/v1/jobs", { method: "POST", headers: { "Idempotency-Key": key }, body });
  }

  events(id, after, signal) {
    const headers = { Accept: "text/event-stream", "Last-Event-ID": String(after) };
    return this.fetch(`/v1/jobs/${id}/events`, { headers, signal, cache: "no-store" });
  }

  async json(path, request) {
    const response = await this.fetch(path, request);
    return JSON.parse(readSeeds(await response.text()));
  }

  async fetch(path, request = {}) {
    const headers = { ...request.headers, Authorization: `Bearer ${this.token}` };
    let response;
    try {
      response = await fetch(path, { ...request, headers, credentials: "omit" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, { code: "no_answer", message: "The server does not answer. Is it still running?" });
    }
    if (response.ok) return response;
    const failure = await failureOf(response);
    if (response.status === 401) this.onRefused(failure);
    throw failure;
  }
}

async function failureOf(response) {
  const text = await response.text();
  try {
    return new ApiError(response.status, JSON.parse(text).error);
  } catch {
    const message = `The server gave an answer that this page does not understand (status ${response.status}).`;
    return new ApiError(response.status, { code: "unknown", message });
  }
}

// 128 random bits. crypto.randomUUID would not do: browsers keep it from pages served over plain http to another machine.
export function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
