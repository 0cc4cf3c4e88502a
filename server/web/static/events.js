// Follows one job to its end: by the server's event stream, else by asking every second. EventSource cannot send the
// token, so the stream is read with fetch. A broken stream is resumed after the last event that arrived.

import { FINAL } from "./words.js";

const POLL_MS = 1000;
const POLLS_BEFORE_NEW_STREAM = 15;
const SILENCE_MS = 60_000; // the server sends a heartbeat more often than this
const LONGEST_PAUSE_MS = 10_000;

// Calls `onEvent(event)` for each event after number `after`, and `onTrouble(error or null)` when the connection
// breaks or is back. Returns when the job has ended; throws what cannot be helped by trying again.
export async function follow(api, id, after, { onEvent, onTrouble, signal }) {
  const position = { after, ended: false };
  const take = (event) => {
    if (event.id <= position.after) return;
    position.after = event.id;
    position.ended = event.type === "state" && FINAL.has(event.state);
    onEvent(event);
  };
  let failures = 0;
  while (!position.ended && !signal.aborted) {
    const before = position.after;
    try {
      await stream(api, id, position, take, signal);
      if (!position.ended && position.after === before) await pause(POLL_MS, signal);
      failures = 0;
      onTrouble(null);
    } catch (error) {
      if (signal.aborted) return;
      if (hopeless(error)) throw error;
      try {
        await poll(api, id, position, take, signal, () => onTrouble(null));
        failures = 0;
      } catch (second) {
        if (signal.aborted) return;
        if (hopeless(second)) throw second;
        failures += 1;
        onTrouble(second);
        await pause(Math.min(POLL_MS * 2 ** failures, LONGEST_PAUSE_MS), signal);
      }
    }
  }
}

const hopeless = (error) => [401, 403, 404].includes(error.status);

async function stream(api, id, position, take, signal) {
  const silence = new AbortController();
  const stop = () => silence.abort();
  signal.addEventListener("abort", stop);
  let timer = setTimeout(stop, SILENCE_MS);
  try {
    const response = await api.events(id, position.after, silence.signal);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    while (!position.ended) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(stop, SILENCE_MS);
      text += value.replaceAll("\r", "");
      const blocks = text.split("\n\n");
      text = blocks.pop();
      for (const block of blocks) {
        const data = dataOf(block);
        if (data) take(JSON.parse(data));
      }
    }
    await reader.cancel();
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", stop);
  }
}

// The data of one block of the stream; heartbeats are comments and have none.
function dataOf(block) {
  const lines = block.split("\n").filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
}

async function poll(api, id, position, take, signal, onAnswer) {
  for (let turn = 0; turn < POLLS_BEFORE_NEW_STREAM && !position.ended && !signal.aborted; turn += 1) {
    const job = await api.job(id, position.after);
    onAnswer();
    job.events.forEach(take);
    // Old events may be gone; the state alone then tells that the job has ended.
    if (FINAL.has(job.state)) position.ended = true;
    else await pause(POLL_MS, signal);
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}

// The job after `event`, for showing at once what the server will say when it is asked again.
export function after(job, event) {
  const next = { ...job, last_event: event.id };
  if (event.type === "state") {
    Object.assign(next, { state: event.state, error: event.error ?? null });
    if (event.state !== "queued") next.queue_position = null;
  } else if (event.type === "progress") {
    const { stage, step, steps, fraction, eta_s } = event;
    Object.assign(next, { stage, step, steps, fraction, eta_s });
  } else if (event.type === "artifact") {
    const { name, bytes, sha256, media_type, url } = event;
    next.artifacts = [...job.artifacts.filter((old) => old.name !== name), { name, bytes, sha256, media_type, url }];
  } else if (event.type === "note") {
    next.notes = [...job.notes, event.message];
  }
  return next;
}
