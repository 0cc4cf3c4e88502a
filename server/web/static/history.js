// The list of jobs, newest first: opening one is a link to `#job=ID`, so the browser's own back button works.

import { byId, confirmed, element, show } from "./dom.js";
import { percent } from "./progress.js";
import { isFinal, placeInQueue, stateWords, when } from "./words.js";

const PAGE = 12;

export class History {
  // `sent(id)`: the picture of a job that this page has sent, or undefined.
  constructor(api, { sent, onRemoved, onProblem }) {
    this.api = api;
    this.sent = sent;
    this.onRemoved = onRemoved;
    this.onProblem = onProblem;
    this.jobs = []; // newest first
    this.next = null; // where the page after the last one starts
    this.open = null; // id of the job on show
    this.cards = new Map(); // id -> { node, sign }
    this.pictures = new Map(); // id -> { name, address } of its small picture
    byId("history-more").addEventListener("click", () => this.more());
  }

  unfinished = () => this.jobs.some((job) => !isFinal(job));
  find = (id) => this.jobs.find((job) => job.id === id) ?? null;

  // Asks for the newest page again; older ones that were loaded stay.
  async refresh() {
    const { jobs, next } = await this.api.jobs(PAGE);
    const oldest = jobs.at(-1)?.created_at ?? "";
    const older = next === null ? [] : this.jobs.filter((job) => job.created_at < oldest);
    if (!older.length) this.next = next;
    this.jobs = [...jobs, ...older];
    this.draw();
  }

  async more() {
    const known = byId("history-list").children.length;
    try {
      const { jobs, next } = await this.api.jobs(PAGE, this.next);
      const ids = new Set(this.jobs.map((job) => job.id));
      this.jobs.push(...jobs.filter((job) => !ids.has(job.id)));
      this.next = next;
      this.draw();
      byId("history-list").children[known]?.querySelector("a").focus(); // the button may be gone
    } catch (error) {
      this.onProblem(error.message);
    }
  }

  // Takes in what is known of one job before the server is asked again.
  put(job) {
    const place = this.jobs.findIndex((known) => known.id === job.id);
    if (place >= 0) this.jobs[place] = job;
    else this.jobs = [job, ...this.jobs].sort((a, b) => (a.created_at < b.created_at ? 1 : -1));
    this.draw();
  }

  setOpen(id) {
    this.open = id;
    this.draw();
  }

  draw() {
    const list = byId("history-list");
    show(byId("history-empty"), this.jobs.length === 0);
    show(byId("history-more"), this.next !== null);
    for (const [id, card] of this.cards) {
      if (this.find(id)) continue;
      card.node.remove();
      this.cards.delete(id);
      this.forgetPicture(id);
    }
    this.jobs.forEach((job, place) => {
      const sign = JSON.stringify([
        job.state,
        job.queue_position,
        job.cancelling,
        percent(job),
        job.id === this.open,
        this.pictures.get(job.id)?.address,
      ]);
      let card = this.cards.get(job.id);
      if (!card) this.cards.set(job.id, (card = { node: this.card(job), sign: null }));
      if (card.sign !== sign) this.fill(card.node, job);
      card.sign = sign;
      if (list.children[place] !== card.node) list.insertBefore(card.node, list.children[place] ?? null);
      this.fetchPicture(job);
    });
  }

  card(job) {
    const link = element(
      "a",
      { href: `#job=${job.id}` },
      element("span", { class: "card-picture" }),
      element("span", { class: "card-title" }, job.title),
      element("span", { class: "card-state" }),
      element("span", { class: "card-bar", "aria-hidden": "true" }, element("progress", { max: 1, tabindex: -1 })),
    );
    const remove = element(
      "button",
      {
        type: "button",
        class: "quiet card-remove",
        onclick: () => this.remove(job.id),
        "aria-label": `Delete ${job.title}`,
        title: "Delete",
      },
      "✕",
    );
    return element("li", { class: "card", "data-job": job.id }, link, remove);
  }

  fill(node, job) {
    const words =
      { queued: placeInQueue(job.queue_position), running: `Working, ${percent(job)}` }[job.state] ??
      stateWords(job.state);
    node.dataset.state = job.state;
    node.querySelector(".card-state").textContent = isFinal(job) ? `${words} · ${when(job.created_at)}` : words;
    node.querySelector("progress").value = job.fraction ?? 0;
    show(node.querySelector(".card-bar"), job.state === "running");
    show(node.querySelector(".card-remove"), isFinal(job));
    const link = node.querySelector("a");
    if (job.id === this.open) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
    const picture = this.pictures.get(job.id)?.address;
    node
      .querySelector(".card-picture")
      .replaceChildren(...(picture ? [element("img", { src: picture, alt: "" })] : []));
  }

  // The small picture: the mesh's preview, else the picture that was sent in. Each is fetched once.
  async fetchPicture(job) {
    const stored = ["preview.png", "input.png"].find((name) =>
      job.artifacts.some((artifact) => artifact.name === name),
    );
    const name = stored ?? (this.sent(job.id) ? "sent" : null);
    if (!name || this.pictures.get(job.id)?.name === name) return;
    const old = this.pictures.get(job.id)?.address;
    this.pictures.set(job.id, { name, address: old });
    try {
      const blob =
        name === "preview.png" || !this.sent(job.id) ? await this.api.artifact(job.id, name) : this.sent(job.id);
      if (!this.find(job.id)) return;
      if (old) URL.revokeObjectURL(old);
      this.pictures.set(job.id, { name, address: URL.createObjectURL(blob) });
      this.draw();
    } catch {
      this.pictures.delete(job.id); // tried again with the next refresh
    }
  }

  forgetPicture(id) {
    const address = this.pictures.get(id)?.address;
    if (address) URL.revokeObjectURL(address);
    this.pictures.delete(id);
  }

  async remove(id) {
    const job = this.find(id);
    const question = `Delete ${job?.title} and its files? This cannot be undone.`;
    if (!job || !(await confirmed(question, { yes: "Delete", danger: true }))) return;
    try {
      await this.api.remove(id);
    } catch (error) {
      if (error.status !== 404) return this.onProblem(error.message); // gone already is as good
    }
    const place = this.jobs.indexOf(this.find(id));
    this.jobs = this.jobs.filter((known) => known.id !== id);
    this.draw();
    this.onRemoved(job);
    const links = byId("history-list").querySelectorAll("a");
    (links[Math.min(place, links.length - 1)] ?? byId("generate")).focus();
  }
}
