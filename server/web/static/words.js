// What the page says: stages, states, options, sizes and times in plain words.

const STAGES = {
  load: "Loading the model",
  image: "Looking at the picture",
  structure: "Finding the rough shape",
  detail: "Adding detail",
  decode: "Turning detail into volume",
  refine: "Refining",
  surface: "Drawing the surface",
  cleanup: "Tidying up",
  export: "Writing the files",
};

const STATES = {
  queued: "Waiting",
  running: "Working",
  succeeded: "Done",
  failed: "Failed",
  cancelled: "Cancelled",
  interrupted: "Interrupted",
};

const OPTIONS = {
  preset: "Model",
  seed: "Seed",
  faces: "Face budget",
  formats: "Files",
  iso_level: "Surface level",
  max_tokens: "Largest shape (tokens)",
  dense_steps: "Steps, rough shape",
  sparse_steps: "Steps, detail",
  dense_guidance: "Guidance, rough shape",
  sparse_guidance: "Guidance, detail",
  interior: "Inside",
  remove_floaters: "Remove loose pieces",
  remove_interior: "Remove hidden parts",
  solver: "Solver",
  guided_from: "Guidance from noise level",
  guided_until: "Guidance until noise level",
  unconditional_every: "Every how many times: without picture",
  selection_every: "Every how many times: choice of blocks",
  memory: "Device memory",
  turntable: "Turntable animation",
};

const EMPTY = { seed: "random", faces: "no limit" }; // what an empty field means; else the model decides

const ARTIFACTS = {
  "coarse.glb": "Rough shape",
  "preview.png": "Preview picture",
  "turntable.webp": "Turntable",
  "input.png": "Picture as used",
  "job.json": "All settings",
};

export const FINAL = new Set(["succeeded", "failed", "cancelled"]);

export const isFinal = (job) => FINAL.has(job.state);

// "detail 512" becomes "Adding detail (512)".
export function stageWords(stage) {
  const [name, ...rest] = stage.split(/[ _]/);
  return (STAGES[name] ?? sentence(name)) + (rest.length ? ` (${rest.join(" ")})` : "");
}

export const stateWords = (state) => STATES[state] ?? sentence(state);

export const optionWords = (name) => OPTIONS[name] ?? sentence(name);

export const emptyWords = (option) =>
  EMPTY[option.name] ?? (option.default === null ? "the model's own" : String(option.default));

export function artifactWords(name) {
  return ARTIFACTS[name] ?? name.split(".").at(-1).toUpperCase();
}

export function sentence(name) {
  const words = name.replaceAll("_", " ");
  return capital(words);
}

// The server begins its messages in lower case, since the command line puts a name before them.
export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

export const count = (number) => number.toLocaleString("en-US");

export const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

export function size(bytes) {
  if (bytes < 1000) return plural(bytes, "byte");
  for (const [unit, scale] of [
    ["kB", 1e3],
    ["MB", 1e6],
    ["GB", 1e9],
  ]) {
    if (bytes < scale * 1000 || unit === "GB") {
      const value = bytes / scale;
      return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${unit}`;
    }
  }
}

export function duration(seconds) {
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}

// Time left is an estimate, so it is told in steps that do not flicker.
export function timeLeft(seconds) {
  if (seconds < 3) return "a moment left";
  if (seconds < 60) return `about ${Math.ceil(seconds / 5) * 5} s left`;
  if (seconds < 5400) return `about ${Math.round(seconds / 60)} min left`;
  return `about ${(seconds / 3600).toFixed(1)} h left`;
}

export function placeInQueue(position) {
  if (!position) return "Waiting";
  return position === 1 ? "Waiting: next in line" : `Waiting: number ${position} in line`;
}

export function when(text) {
  const time = new Date(text);
  const today = time.toDateString() === new Date().toDateString();
  const clock = time.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return today ? clock : `${time.toLocaleDateString([], { day: "numeric", month: "short" })}, ${clock}`;
}

// "mug.png" and "mesh.obj" become "mug.obj"; "coarse.glb" becomes "mug-coarse.glb".
export function fileName(title, artifact) {
  const stem =
    title
      .replace(/\.[^.]*$/, "")
      .replace(/[\\/:*?"<>|\u0000-\u001f]/g, "_")
      .trim() || "mesh";
  return artifact.startsWith("mesh.") ? `${stem}.${artifact.split(".").at(-1)}` : `${stem}-${artifact}`;
}
