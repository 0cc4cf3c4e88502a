// The picture to make a mesh from: chosen, dropped anywhere on the page, or pasted.

import { announce, byId, element, show } from "./dom.js";
import { size } from "./words.js";

export class PictureInput {
  constructor(limits, onProblem) {
    this.limits = limits;
    this.onProblem = onProblem;
    this.file = null;
    this.address = null;
    const input = byId("picture-file");
    input.addEventListener("change", () => {
      if (input.files.length) this.take(input.files[0]);
      input.value = ""; // so that choosing the same file again is a change
    });
    document.addEventListener("paste", (event) => {
      const files = event.clipboardData?.files ?? [];
      if (files.length) {
        event.preventDefault();
        this.take(files[0]);
      }
    });
    this.listenForDrops();
  }

  listenForDrops() {
    const veil = byId("drop-veil");
    const carriesFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    const over = (event) => {
      event.preventDefault(); // without it the browser would open what is dropped, and leave this page
      show(veil, carriesFile(event));
    };
    document.addEventListener("dragenter", over);
    document.addEventListener("dragover", over);
    document.addEventListener("dragleave", (event) => event.relatedTarget === null && show(veil, false));
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      show(veil, false);
      const files = event.dataTransfer?.files ?? [];
      if (files.length) this.take(files[0]);
      else
        this.onProblem(
          "That was no file. Save the picture first, then drop the file, or copy the picture and paste it here.",
        );
    });
  }

  take(file) {
    if (file.type && !file.type.startsWith("image/")) {
      this.onProblem(`${file.name} is no picture. Choose a PNG, JPEG or WebP file.`);
      return;
    }
    if (file.size > this.limits.body_bytes) {
      this.onProblem(
        `${file.name} has ${size(file.size)}; the server takes at most ${size(this.limits.body_bytes)}. Make it smaller first.`,
      );
      return;
    }
    this.onProblem(null);
    this.file = file;
    this.showPreview();
    announce(`Picture chosen: ${file.name}.`);
  }

  showPreview() {
    const preview = byId("picture-preview");
    if (this.address) URL.revokeObjectURL(this.address);
    this.address = URL.createObjectURL(this.file);
    preview.onload = () => this.describe(`${preview.naturalWidth} × ${preview.naturalHeight}, ${size(this.file.size)}`);
    // The server reads some formats that a browser does not.
    preview.onerror = () => (
      show(preview, false),
      this.describe(`${size(this.file.size)}; this browser cannot show it, the server may still read it`)
    );
    preview.src = this.address;
    preview.alt = `The chosen picture, ${this.file.name}`;
    show(preview, true);
  }

  describe(facts) {
    const change = element("span", { class: "change" }, "Choose another");
    byId("picture-text").replaceChildren(element("strong", {}, this.file.name), ` ${facts}. `, change);
  }
}
