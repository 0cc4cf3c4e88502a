// How far a job is: the line of words, the bar, and the title of the browser's tab.

import { announce, byId, show } from "./dom.js";
import { isFinal, placeInQueue, stageWords, stateWords, timeLeft } from "./words.js";

const said = { job: null, text: null }; // what screen readers heard last: a stage is announced once, steps are not

export function showProgress(job) {
  const waiting = job !== null && !isFinal(job);
  show(byId("progress"), waiting);
  show(byId("cancel"), waiting);
  document.title = job === null ? "S2 Mesh" : `${tabWords(job)} – ${job.title} – S2 Mesh`;
  if (!waiting) return;
  byId("cancel").disabled = job.cancelling;
  const bar = byId("progress-bar");
  const line = progressWords(job);
  bar.value = job.fraction ?? 0;
  bar.setAttribute("aria-valuetext", job.state === "running" ? `${percent(job)}, ${line}` : line);
  byId("progress-text").textContent = line;
  const headline = job.state === "running" && job.stage ? stageWords(job.stage) : line;
  if (said.job !== job.id || said.text !== headline) announce(headline);
  Object.assign(said, { job: job.id, text: headline });
}

export function progressWords(job) {
  if (job.cancelling) return "Stopping after this step";
  if (job.state === "queued") return placeInQueue(job.queue_position);
  if (job.state === "interrupted") return "Interrupted; it will be run again";
  if (!job.stage) return "Starting";
  const step = job.steps > 1 ? `step ${Math.min(job.step + 1, job.steps)} of ${job.steps}` : null;
  const left = job.eta_s === null || job.eta_s === undefined ? null : timeLeft(job.eta_s);
  return [stageWords(job.stage), step, left].filter(Boolean).join(" · ");
}

export const percent = (job) => `${Math.round((job.fraction ?? 0) * 100)} %`;

function tabWords(job) {
  return job.state === "running" ? percent(job) : stateWords(job.state);
}
