// What of a job the view shows: the rough shape as soon as there is one, then the mesh; a picture where the browser
// has no 3D. The 3D library is loaded when the first mesh is there to be shown.

import { byId, show } from "./dom.js";
import { isFinal } from "./words.js";

const NO_3D = "This browser shows no 3D (WebGL is missing or switched off)";
const NO_GLB = "The 3D view needs a GLB file, which was not asked for";

export class StageView {
  constructor(api) {
    this.api = api;
    this.viewer = null;
    this.no3d = false;
    this.job = null; // id of the job on show
    this.shows = "nothing"; // nothing | coarse | mesh | picture
    this.picture = null; // address of the picture on show
    const toggle = (id, act) =>
      byId(id).addEventListener("click", () => {
        const pressed = byId(id).getAttribute("aria-pressed") !== "true";
        byId(id).setAttribute("aria-pressed", String(pressed));
        act(pressed);
      });
    toggle("view-shading", (normals) => this.viewer?.setShading(normals ? "normals" : "clay"));
    toggle("view-wire", (on) => this.viewer?.setWireframe(on));
    byId("view-in").addEventListener("click", () => this.viewer?.zoom(1 / 1.3));
    byId("view-out").addEventListener("click", () => this.viewer?.zoom(1.3));
    byId("view-reset").addEventListener("click", () => this.viewer?.reset());
  }

  // Brings the view up to what `job` has by now. Safe to call for every event.
  async update(job) {
    if (job.id !== this.job) this.clear(job.id);
    const has = (name) => job.artifacts.some((artifact) => artifact.name === name);
    const wanted = has("mesh.glb") ? "mesh" : has("coarse.glb") ? "coarse" : "nothing";
    this.say(noteFor(job, wanted, this.shows));
    if (this.no3d) return this.showPicture(job, has("preview.png"), NO_3D);
    if (job.state === "succeeded" && !has("mesh.glb")) return this.showPicture(job, has("preview.png"), NO_GLB);
    if (wanted === "nothing" || wanted === this.shows || wanted === this.loading) return;
    this.loading = wanted;
    try {
      await this.showMesh(job, wanted);
      this.say(noteFor(job, wanted, this.shows));
    } catch (error) {
      if (job.id === this.job) this.say(`The mesh cannot be shown: ${error.message}`);
    } finally {
      if (job.id === this.job) this.loading = null;
    }
    if (this.no3d) await this.showPicture(job, has("preview.png"), NO_3D);
  }

  async showMesh(job, wanted) {
    const [blob] = await Promise.all([this.api.artifact(job.id, `${wanted}.glb`), this.start()]);
    if (this.no3d || job.id !== this.job || this.shows === "mesh") return;
    show(byId("view"), true); // before it is drawn, since a hidden canvas has no size
    await this.viewer.load(await blob.arrayBuffer(), { keepView: this.shows === "coarse" });
    if (job.id !== this.job) return;
    byId("view").setAttribute(
      "aria-label",
      wanted === "mesh" ? `The mesh of ${job.title} in 3D` : `The rough shape of ${job.title} in 3D`,
    );
    show(byId("view-tools"), true);
    this.setShows(wanted);
  }

  async start() {
    if (this.viewer || this.no3d) return;
    this.no3d = !canDraw3d();
    if (this.no3d) return;
    const { Viewer } = await import("./viewer.js");
    this.viewer ??= new Viewer(byId("view"));
  }

  async showPicture(job, there, why) {
    if (there) this.say(`${why}, so here is a picture of the mesh. The files are complete.`);
    else if (!isFinal(job)) this.say(`${why}; a picture of the mesh comes here when it is done.`);
    if (!there || this.shows === "picture") return;
    this.setShows("picture");
    show(byId("view"), false);
    show(byId("view-tools"), false);
    const blob = await this.api.artifact(job.id, "preview.png");
    if (job.id !== this.job) return;
    this.picture = URL.createObjectURL(blob);
    byId("view-flat").src = this.picture;
    show(byId("view-flat"), true);
  }

  clear(id) {
    this.job = id;
    this.loading = null;
    this.viewer?.clear();
    if (this.picture) URL.revokeObjectURL(this.picture);
    this.picture = null;
    show(byId("view"), false);
    show(byId("view-flat"), false);
    show(byId("view-tools"), false);
    this.setShows("nothing");
    this.say("The mesh appears here");
  }

  setShows(what) {
    this.shows = what;
    byId("viewer").dataset.shows = what;
  }

  say(text) {
    byId("view-note").textContent = text;
    show(byId("view-note"), text !== "");
  }
}

// Asked of a canvas of its own, before the 3D library is loaded and would complain.
function canDraw3d() {
  const context = document.createElement("canvas").getContext("webgl2");
  context?.getExtension("WEBGL_lose_context")?.loseContext();
  return context !== null;
}

function noteFor(job, wanted, shows) {
  if (shows === "coarse" && job.state === "running") return "Rough shape; the detail follows";
  if (shows === "coarse" || (wanted === "coarse" && job.state !== "running")) return "Rough shape only";
  if (shows === "nothing" && wanted !== "nothing") return "Loading";
  if (shows === "nothing" && (job.state === "running" || job.state === "queued"))
    return "The rough shape appears here first";
  return shows === "nothing" ? "No shape came of this job" : "";
}
