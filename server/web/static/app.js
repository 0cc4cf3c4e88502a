// Puts the page together: token, form, the job on show, and the list of jobs.

import { Api, ApiError, newKey } from "./api.js";
import { announce, byId, show } from "./dom.js";
import { after, follow } from "./events.js";
import { OptionsForm } from "./form.js";
import { History } from "./history.js";
import { Models } from "./models.js";
import { PictureInput } from "./picture.js";
import { showProgress } from "./progress.js";
import { outcome, saveBlob, showResult } from "./result.js";
import { sayServer, ServerLine } from "./server_line.js";
import { StageView } from "./stage_view.js";
import { dropToken, keepToken, takeToken } from "./token.js";
import { fileName, isFinal, when } from "./words.js";

const REFRESH_MS = 2500;
const IDLE_TURNS = 4; // with nothing unfinished, the list is asked for every fourth time

class App {
  constructor(token, capabilities) {
    this.api = new Api(token, (failure) => askForToken(failure.message));
    this.form = new OptionsForm(capabilities);
    this.picture = new PictureInput(capabilities.limits, (message) => this.problem(message));
    this.models = new Models(this.api, capabilities, (now) => this.form.fillPresets(now));
    this.view = new StageView(this.api);
    this.server = new ServerLine(this.api, (message) => this.problem(message));
    this.history = new History(this.api, {
      sent: (id) => this.sent.get(id),
      onRemoved: (job) => this.removed(job),
      onProblem: (message) => this.problem(message),
    });
    this.job = null; // the job on show
    this.following = null; // stops following it
    this.order = null; // the order that is being sent: its key stays the same when it is tried again
    this.sent = new Map(); // job id -> the picture that was sent, as long as this page is open
    byId("order-form").addEventListener("submit", (event) => (event.preventDefault(), this.generate()));
    byId("cancel").addEventListener("click", () => this.cancel());
    this.going = false; // did this page change the address, and not a link in the list?
    addEventListener("hashchange", () => {
      if (this.openFromAddress() && !this.going) byId("stage-title").focus({ preventScroll: true });
      this.going = false;
    });
  }

  async start() {
    await Promise.all([this.server.refresh(), this.history.refresh()]);
    const waiting = this.history.jobs.filter((job) => !isFinal(job)).at(-1);
    if (!this.openFromAddress() && waiting) this.goTo(waiting.id);
    for (let turn = 1; ; turn += 1) {
      await new Promise((resolve) => setTimeout(resolve, REFRESH_MS));
      if (document.hidden) continue;
      await this.server.refresh();
      if (this.history.unfinished() || turn % IDLE_TURNS === 0) await this.refreshList();
    }
  }

  async refreshList() {
    try {
      await this.history.refresh();
    } catch {
      return; // the line at the top says so
    }
    const listed = this.job && this.history.find(this.job.id);
    // The stream does not tell the place in the queue, nor that another window has cancelled the job.
    if (listed && !isFinal(this.job) && listed.last_event >= this.job.last_event) {
      this.take({ ...this.job, queue_position: listed.queue_position, cancelling: listed.cancelling });
    }
  }

  async generate() {
    if (!this.picture.file) {
      this.problem("Choose a picture first.");
      byId("picture-file").focus();
      return;
    }
    await this.send(this.picture.file, this.form.values());
  }

  async send(picture, options) {
    this.problem(null);
    this.form.clearAll();
    const content = JSON.stringify([picture.name, picture.size, picture.lastModified, options]);
    if (this.order?.content !== content) this.order = { content, key: newKey() };
    byId("generate").disabled = true;
    try {
      const job = await this.api.submit(picture, options, this.order.key);
      this.order = null;
      this.sent.set(job.id, picture);
      this.history.put(job);
      this.goTo(job.id);
    } catch (error) {
      if (error.status !== 0) this.order = null; // answered: the next try is a new order
      this.refused(error);
    } finally {
      byId("generate").disabled = false;
    }
  }

  refused(error) {
    const field = error.details?.field ?? error.details?.option;
    if (field && this.form.markWrong(field, error.message)) announce(error.message);
    else if (error.status !== 401) this.problem([error.message, error.details?.advice].filter(Boolean).join(" "));
  }

  problem(message) {
    const box = byId("order-problem");
    box.textContent = message ?? "";
    show(box, Boolean(message));
    if (message) announce(message);
  }

  goTo(id) {
    if (location.hash === `#job=${id}`) this.openFromAddress();
    else {
      this.going = true;
      location.hash = `job=${id}`; // hashchange opens it
    }
  }

  openFromAddress() {
    const id = new URLSearchParams(location.hash.slice(1)).get("job");
    if (!id || !/^[0-9a-f]{32}$/.test(id)) return false;
    if (this.job?.id !== id) this.open(id);
    return true;
  }

  async open(id) {
    this.following?.abort();
    const stop = (this.following = new AbortController());
    this.history.setOpen(id);
    revealStage();
    try {
      const known = this.history.find(id);
      if (known) this.take(known);
      const job = await this.api.job(id);
      if (stop.signal.aborted) return;
      this.take(job);
      if (isFinal(job)) announce(`${job.title}: ${outcome(job)}`);
      else await this.followToEnd(job, stop.signal);
    } catch (error) {
      if (!stop.signal.aborted) this.lost(error);
    }
  }

  async followToEnd(job, signal) {
    await follow(this.api, job.id, job.last_event, {
      signal,
      onEvent: (event) => this.take(after(this.job, event)),
      onTrouble: (error) => error && (byId("progress-text").textContent = `${error.message} Trying again.`),
    });
    if (signal.aborted) return;
    const ended = await this.api.job(job.id);
    if (signal.aborted) return;
    this.take(ended);
    announce([outcome(ended), ended.error?.message, ended.error?.details?.advice].filter(Boolean).join(". "));
    await this.server.refresh();
  }

  // Shows what is now known of the job on show.
  take(job) {
    this.job = job;
    byId("stage").dataset.state = job.state;
    byId("stage-title").textContent = job.title;
    byId("stage-state").textContent =
      isFinal(job) && (job.result || job.state !== "succeeded") ? outcome(job) : `Sent ${when(job.created_at)}`;
    showProgress(job);
    showResult(job, this);
    this.showSource(job);
    this.view.update(job);
    this.history.put(job);
  }

  // The picture that the mesh is made from, beside the title.
  async showSource(job) {
    const image = byId("stage-picture");
    if (image.dataset.job === job.id) return;
    const sent = this.sent.get(job.id);
    const stored = job.artifacts.some((artifact) => artifact.name === "input.png");
    if (!sent && !stored) return show(image, false);
    image.dataset.job = job.id;
    const blob = sent ?? (await this.api.artifact(job.id, "input.png").catch(() => null));
    if (!blob || this.job?.id !== job.id) return;
    if (image.src) URL.revokeObjectURL(image.src);
    image.onerror = () => show(image, false);
    image.src = URL.createObjectURL(blob);
    show(image, true);
  }

  lost(error) {
    if (error.status === 401) return;
    if (error.status === 404) this.clearStage("This job is no longer there.");
    else byId("stage-state").textContent = error.message;
    announce(error.message);
  }

  removed(job) {
    this.sent.delete(job.id);
    announce(`${job.title} deleted.`);
    if (this.job?.id === job.id) this.clearStage("Choose a picture and press Generate.");
  }

  clearStage(words) {
    this.following?.abort();
    this.job = null;
    history.replaceState(null, "", location.pathname + location.search);
    byId("stage").dataset.state = "empty";
    byId("stage-title").textContent = "No mesh on show";
    byId("stage-state").textContent = words;
    show(byId("stage-picture"), false);
    showProgress(null);
    showResult(null, this);
    this.view.clear(null);
    this.history.setOpen(null);
  }

  async cancel() {
    try {
      const answer = await this.api.cancel(this.job.id);
      if (this.job?.id === answer.id && !isFinal(this.job)) this.take({ ...this.job, cancelling: answer.cancelling });
    } catch (error) {
      this.problem(error.message);
    }
  }

  async download(job, artifact, button) {
    button.disabled = true;
    try {
      saveBlob(await this.api.artifact(job.id, artifact.name), fileName(job.title, artifact.name));
      this.problem(null);
    } catch (error) {
      this.problem(error.message);
    }
    button.disabled = false;
  }

  async again(job) {
    const picture = await this.pictureOf(job);
    if (!picture) return;
    this.picture.take(picture);
    this.form.set(job.options);
    byId("picture-file").focus();
    announce("Picture, options and seed are in the form.");
  }

  async anotherSeed(job) {
    const picture = await this.pictureOf(job);
    if (picture) await this.send(picture, { ...job.options, seed: null });
  }

  // The picture as it was sent, if this page sent it; else as the server keeps it, with its background removed.
  async pictureOf(job) {
    if (this.sent.has(job.id)) return this.sent.get(job.id);
    try {
      const blob = await this.api.artifact(job.id, "input.png");
      return new File([blob], job.title.replace(/\.[^.]*$/, "") + ".png", { type: "image/png" });
    } catch (error) {
      this.problem(`The picture of this job is not kept (${error.message}) Choose it again.`);
      return null;
    }
  }
}

// On a phone, and below a long form, the stage may be out of sight.
function revealStage() {
  const { top } = byId("stage").getBoundingClientRect();
  if (top < 0 || top > innerHeight / 2) byId("side").scrollIntoView({ block: "start" });
}

function askForToken(why) {
  dropToken();
  byId("token-why").textContent = why;
  show(byId("workplace"), false);
  show(byId("token-form"), true);
  byId("token").focus();
}

async function open(token) {
  let refused = false;
  const api = new Api(token, (failure) => ((refused = true), askForToken(failure.message)));
  while (!refused) {
    try {
      const capabilities = await api.capabilities();
      show(byId("token-form"), false);
      show(byId("workplace"), true);
      return await new App(token, capabilities).start();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error; // a fault of this page belongs in the console
      if (!refused) sayServer("wrong", `${error.message} Trying again.`);
    }
    await new Promise((resolve) => setTimeout(resolve, REFRESH_MS));
  }
}

// Reloading starts every part anew with the token that was just typed.
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken(byId("token").value);
  location.reload();
});

const token = takeToken();
if (token) open(token);
else askForToken("This page needs the server's token, so that no other page or person can use the server.");
