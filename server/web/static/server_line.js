// The line at the top: is the server well, on what device, how much memory is free, how many jobs wait.

import { announce, byId, show } from "./dom.js";
import { plural, size } from "./words.js";

const WORKER = {
  stopped: ["idle", "Ready"],
  starting: ["busy", "Starting"],
  idle: ["idle", "Ready"],
  busy: ["busy", "Working"],
  stopping: ["busy", "Freeing memory"],
  broken: ["wrong", "Cannot work"],
};

export class ServerLine {
  constructor(api, onProblem) {
    this.api = api;
    this.onProblem = onProblem;
    this.status = null;
    byId("unload").addEventListener("click", () => this.unload());
  }

  // Asks the server and draws the line. A server that answers "not ready" sends the same document along.
  async refresh() {
    try {
      this.draw(await this.api.ready(), null);
    } catch (error) {
      if (error.status === 401) return;
      if (error.details.worker) this.draw(error.details, error.message);
      else sayServer("wrong", error.message);
    }
  }

  draw(status, problem) {
    this.status = status;
    const [look, words] = status.draining
      ? ["busy", "Shutting down"]
      : (WORKER[status.worker.state] ?? ["busy", status.worker.state]);
    const { queued } = status.queue;
    const parts = [
      words,
      status.device ? status.device.title || status.device.name : null,
      status.preset ? `${status.preset} loaded` : null,
      status.memory?.free_bytes ? `${size(status.memory.free_bytes)} free` : null,
      queued ? `${plural(queued, "job")} waiting` : null,
    ];
    sayServer(look, problem ?? parts.filter(Boolean).join(" · "));
    show(byId("unload"), status.preset !== null);
  }

  async unload() {
    const button = byId("unload");
    button.disabled = true;
    try {
      const { unloaded } = await this.api.unload(this.status?.queue.running > 0);
      announce(unloaded ? "The memory is free." : "The memory will be freed after the running job.");
    } catch (error) {
      this.onProblem(error.message);
    }
    button.disabled = false;
    await this.refresh();
  }
}

export function sayServer(look, text) {
  show(byId("server-line"), true);
  byId("server-dot").className = `dot ${look}`;
  const line = byId("server-text");
  if (line.textContent === text) return;
  line.textContent = text;
  if (look === "wrong") announce(text);
}
