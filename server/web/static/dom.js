// Small helpers for the page's elements. Text always goes in as text, never as markup.

export const byId = (id) => document.getElementById(id);

// element("button", { class: "quiet", type: "button", onclick: f }, "Delete"): properties that an element has as
// functions or booleans are set as such, everything else as an attribute. null and false leave a property out.
export function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function show(node, visible) {
  node.hidden = !visible;
}

// Says something to screen readers, once. The region is polite: it waits until the reader has finished.
export function announce(text) {
  const live = byId("live");
  if (live.textContent !== text) live.textContent = text;
}

// Asks before something that cannot be undone, or that takes much. Escape and the first button mean no.
export function confirmed(text, { yes, no = "Keep", danger = false }) {
  const dialog = byId("confirm");
  byId("confirm-text").textContent = text;
  byId("confirm-yes").textContent = yes;
  byId("confirm-yes").className = danger ? "danger" : "primary";
  byId("confirm-no").textContent = no;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    const closed = () => {
      if (dialog.open) return; // the event of the question before comes late
      dialog.removeEventListener("close", closed);
      resolve(dialog.returnValue === "yes");
    };
    dialog.addEventListener("close", closed);
  });
}
