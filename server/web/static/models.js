// Models that are not on the server yet: what each is, its licences and size, and its download.

import { announce, byId, confirmed, element, show } from "./dom.js";
import { capital, size } from "./words.js";

const LOOK_MS = 1000;
const STAGES = { check: "Comparing what is there", download: "Downloading", convert: "Converting" };

export class Models {
  constructor(api, capabilities, onInstalled) {
    this.api = api;
    this.onInstalled = onInstalled;
    this.cards = new Map(); // preset name -> its card
    this.draw(capabilities);
    for (const name of this.cards.keys()) this.pickUp(name);
  }

  draw(capabilities) {
    const missing = capabilities.presets.filter((preset) => preset.download && !preset.installed);
    this.cards = new Map(missing.map((preset) => [preset.name, new Card(preset, this)]));
    byId("models-list").replaceChildren(...[...this.cards.values()].map((card) => card.node));
    show(byId("models"), missing.length > 0);
  }

  // A download that this or another window has begun goes on being shown.
  async pickUp(name) {
    try {
      const download = await this.api.download(name);
      if (download.state === "none") return;
      this.cards.get(name)?.show(download);
      if (download.state === "running") {
        byId("models").open = true;
        await this.follow(name);
      }
    } catch {
      return; // the line at the top tells when the server is away
    }
  }

  async start(preset) {
    const card = this.cards.get(preset.name);
    const { bytes, disk_bytes, sources } = preset.download;
    const licences = [...new Set(sources.map((source) => source.license))].join(", ");
    const question = `Download ${size(bytes)} (${size(disk_bytes)} of disk while it is made) and accept the licences: ${licences}?`;
    if (!(await confirmed(question, { yes: "Download", no: "Not now" }))) return;
    card.busy(true);
    try {
      card.show(await this.api.startDownload(preset.name));
      announce(`Downloading ${preset.title}.`);
      await this.follow(preset.name);
    } catch (error) {
      card.problem(error.message);
    }
    card.busy(false);
  }

  async follow(name) {
    for (;;) {
      const download = await this.look(name);
      if (download) {
        this.cards.get(name)?.show(download);
        if (download.state !== "running") return this.ended(name, download);
      }
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
  }

  async look(name) {
    try {
      return await this.api.download(name);
    } catch (error) {
      if (error.status === 401 || error.status === 404) throw error;
      return null; // the server may be away for a moment
    }
  }

  async ended(name, download) {
    if (download.state !== "succeeded") return;
    announce(`${name} is installed.`);
    const capabilities = await this.api.capabilities();
    this.draw(capabilities);
    this.onInstalled(capabilities, name);
  }

  async cancel(name) {
    try {
      this.cards.get(name)?.show(await this.api.cancelDownload(name));
    } catch (error) {
      this.cards.get(name)?.problem(error.message);
    }
  }
}

// One model: what it is, and how far its download is.
class Card {
  constructor(preset, models) {
    const sources = preset.download.sources.map((source) =>
      element("li", {}, `${source.title}: about ${size(source.bytes)}, licence ${source.license}, ${source.page}`),
    );
    this.begin = element(
      "button",
      { type: "button", onclick: () => models.start(preset), id: `download-${preset.name}` },
      `Download (about ${size(preset.download.bytes)})`,
    );
    this.stop = element("button", { type: "button", onclick: () => models.cancel(preset.name), hidden: true }, "Cancel");
    this.bar = element("progress", { max: "1", value: "0", "aria-label": `Download of ${preset.title}` });
    this.words = element("p", { class: "hint" });
    this.wrong = element("p", { class: "problem", hidden: true });
    this.progress = element("div", { class: "progress", hidden: true }, this.bar);
    this.stage = null;
    const title = element("h3", {}, preset.title);
    const buttons = element("div", { class: "row" }, this.begin, this.stop);
    this.node = element("li", {}, title, element("ul", {}, ...sources), this.progress, this.words, this.wrong, buttons);
  }

  busy(is) {
    this.begin.disabled = is;
  }

  show(download) {
    const running = download.state === "running";
    show(this.progress, running);
    show(this.stop, running);
    show(this.begin, !running);
    this.stop.disabled = download.cancelling;
    this.problem(download.error ? capital(download.error.message) : null);
    this.words.textContent = download.state === "cancelled" ? "Cancelled; what has come is kept." : "";
    if (!running) return;
    if (download.total) this.bar.value = download.done / download.total;
    else this.bar.removeAttribute("value"); // nobody knows yet
    this.words.textContent = download.cancelling ? "Stopping" : wordsOf(download);
    if (download.stage && download.stage !== this.stage) announce(STAGES[download.stage] ?? download.stage);
    this.stage = download.stage;
  }

  problem(message) {
    this.wrong.textContent = message ?? "";
    show(this.wrong, Boolean(message));
    if (message) announce(message);
  }
}

function wordsOf({ stage, file, done, total }) {
  if (!stage) return "Starting";
  const far = stage === "convert" ? `${done} of ${total}` : `${size(done)} of ${size(total)}`;
  return `${STAGES[stage] ?? stage} · ${far} · ${file}`;
}
