// What came of a job: facts, notes, downloads, and what to do next. A failure is told with the server's advice.

import { byId, element, show } from "./dom.js";
import { artifactWords, capital, count, duration, fileName, isFinal, sentence, size } from "./words.js";

const MESHES_FIRST = (a, b) => rank(a.name) - rank(b.name);
const rank = (name) => (name.startsWith("mesh.") ? 0 : name === "coarse.glb" ? 1 : 2);

// `actions`: download(job, artifact, button), again(job), anotherSeed(job).
export function showResult(job, actions) {
  showError(job);
  const result = byId("result");
  const worthShowing = job !== null && (isFinal(job) || job.artifacts.length > 0);
  show(result, worthShowing);
  if (!worthShowing) {
    result.dataset.sign = "";
    result.replaceChildren();
    return;
  }
  // Drawn anew only when something changed, so that a focused button is not taken away while steps go by.
  const sign = JSON.stringify([job.id, job.state, job.artifacts.length, job.notes, job.result]);
  if (result.dataset.sign === sign) return;
  result.dataset.sign = sign;
  result.replaceChildren(...[facts(job), notes(job), downloads(job, actions), next(job, actions)].filter(Boolean));
}

function showError(job) {
  const box = byId("job-error");
  const error = job?.error ?? null;
  show(box, error !== null);
  if (error === null) return;
  const advice = error.details?.advice;
  box.replaceChildren(
    element("p", {}, element("strong", {}, capital(error.message))),
    ...(advice ? [element("p", {}, capital(advice))] : []),
  );
}

function facts(job) {
  const { result, options } = job;
  const rows = [];
  if (result) {
    rows.push(["Faces", count(result.faces)], ["Vertices", count(result.vertices)]);
    rows.push(["Watertight", result.watertight ? "yes" : "no"], ["Time", duration(result.seconds)]);
  }
  if (isFinal(job)) rows.push(["Seed", String(options.seed)], ["Model", options.preset]);
  if (result?.device) rows.push(["Device", `${result.device}, ${result.dtype}`]);
  if (!rows.length) return null;
  return element(
    "dl",
    { class: "facts" },
    ...rows.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
  );
}

function notes(job) {
  if (!job.notes.length) return null;
  return element(
    "ul",
    { class: "notes", "aria-label": "Notes" },
    ...job.notes.map((note) => element("li", {}, capital(note))),
  );
}

function downloads(job, actions) {
  if (!job.artifacts.length) return null;
  const button = (artifact) => {
    const words = artifactWords(artifact.name);
    const name = fileName(job.title, artifact.name);
    const main = job.state === "succeeded" && artifact.name.startsWith("mesh.");
    const start = (event) => actions.download(job, artifact, event.currentTarget);
    return element(
      "button",
      {
        type: "button",
        class: main ? "primary" : null,
        "data-artifact": artifact.name,
        title: `Save as ${name}`,
        onclick: start,
      },
      element("span", {}, words),
      " ",
      element("small", {}, size(artifact.bytes)),
    );
  };
  const buttons = [...job.artifacts].sort(MESHES_FIRST).map(button);
  return element(
    "div",
    { class: "downloads", role: "group", "aria-label": "Downloads" },
    element("h3", {}, "Download"),
    element("div", {}, ...buttons),
  );
}

function next(job, actions) {
  if (!isFinal(job)) return null;
  const button = (words, title, onclick) => element("button", { type: "button", title, onclick }, words);
  return element(
    "div",
    { class: "downloads", role: "group", "aria-label": "Again" },
    element("h3", {}, "Again"),
    element(
      "div",
      {},
      button("Same seed, other options", "Puts this picture, its options and its seed into the form.", () =>
        actions.again(job),
      ),
      button("Another seed", "Starts at once, with the same picture and options.", () => actions.anotherSeed(job)),
    ),
  );
}

// One line on a finished job, for its head and for screen readers.
export function outcome(job) {
  if (job.state === "succeeded" && job.result)
    return `Done in ${duration(job.result.seconds)}: ${count(job.result.faces)} faces`;
  if (job.state === "failed") return "No mesh came of it";
  if (job.state === "cancelled") return "Cancelled";
  return sentence(job.state);
}

// Gives the browser a file that was fetched with the token.
export function saveBlob(blob, name) {
  const address = URL.createObjectURL(blob);
  const link = element("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 60_000); // the download reads it a little later
}
