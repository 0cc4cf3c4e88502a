// The options of an order, drawn from what the server says it offers. Nothing about an option is written here but
// which ones stand in front; limits, choices, defaults and help are the server's.

import { byId, element } from "./dom.js";
import { emptyWords, optionWords, sentence } from "./words.js";

const IN_FRONT = ["preset", "resolution", "seed", "faces", "formats"];

export class OptionsForm {
  constructor(capabilities) {
    this.capabilities = capabilities;
    this.options = capabilities.options;
    const named = (name) => this.options.find((option) => option.name === name);
    const others = this.options.filter((option) => !IN_FRONT.includes(option.name));
    byId("options-common").replaceChildren(
      ...IN_FRONT.map(named)
        .filter(Boolean)
        .map((option) => this.row(option)),
    );
    byId("options-others").replaceChildren(...others.map((option) => this.row(option)));
    // A wrong value in the closed part must be seen when the browser points at it.
    byId("options-more").addEventListener("invalid", () => (byId("options-more").open = true), true);
    const preset = byId("option-preset");
    if (preset) preset.addEventListener("change", () => this.fillResolutions());
    this.fillResolutions();
  }

  row(option) {
    const id = `option-${option.name}`;
    const helpId = `${id}-help`;
    const help = element("small", { id: helpId, class: "hint" }, option.help);
    const label = element("label", { for: id }, optionWords(option.name));
    const wrong = element("small", { id: `${id}-wrong`, class: "wrong", hidden: true });
    if (option.type === "array") {
      const boxes = option.choices.map((choice) =>
        checkbox(`${id}-${choice}`, choice, choice.toUpperCase(), option.default.includes(choice)),
      );
      const legend = element("legend", {}, optionWords(option.name));
      return element(
        "fieldset",
        { class: "field", id, "aria-describedby": helpId },
        legend,
        element("div", { class: "boxes" }, ...boxes),
        help,
        wrong,
      );
    }
    if (option.type === "boolean") {
      const box = checkbox(id, option.name, optionWords(option.name), option.default);
      box.querySelector("input").setAttribute("aria-describedby", helpId);
      return element("div", { class: "field" }, box, help, wrong);
    }
    const control = this.control(option, { id, name: option.name, "aria-describedby": `${helpId} ${id}-wrong` });
    control.addEventListener("input", () => this.clearWrong(option.name));
    return element("div", { class: "field" }, label, option.name === "seed" ? withDice(control) : control, help, wrong);
  }

  control(option, attributes) {
    if (option.name === "preset")
      return element(
        "select",
        attributes,
        ...this.capabilities.presets.map((preset) => presetChoice(preset, this.capabilities.default_preset)),
      );
    if (option.name === "resolution") return element("select", attributes);
    if (option.choices) {
      return element(
        "select",
        attributes,
        ...option.choices.map((choice) =>
          element("option", { value: choice, selected: choice === option.default }, sentence(String(choice))),
        ),
      );
    }
    if (option.name === "seed") {
      // Text, since a number field rounds seeds beyond 2^53.
      const pattern = { pattern: "[0-9]{1,19}", title: "A whole number of at most 19 digits" };
      return element("input", {
        ...attributes,
        ...pattern,
        type: "text",
        inputmode: "numeric",
        autocomplete: "off",
        placeholder: emptyWords(option),
      });
    }
    if (option.type === "integer" || option.type === "number") {
      const limits = { min: option.minimum, max: option.maximum, step: option.type === "integer" ? 1 : "any" };
      return element("input", { ...attributes, ...limits, type: "number", placeholder: emptyWords(option) });
    }
    return element("input", { ...attributes, type: "text", placeholder: emptyWords(option) });
  }

  // After a model was installed; what is chosen stays chosen.
  fillPresets(capabilities) {
    this.capabilities = capabilities;
    const control = byId("option-preset");
    const wanted = control.value;
    control.replaceChildren(
      ...capabilities.presets.map((preset) => presetChoice(preset, capabilities.default_preset)),
    );
    control.value = wanted;
    this.fillResolutions();
  }

  fillResolutions() {
    const control = byId("option-resolution");
    if (!control) return;
    const preset = this.capabilities.presets.find((known) => known.name === byId("option-preset").value);
    const known = [...(preset?.resolutions ?? [])].sort((a, b) => b.resolution - a.resolution);
    const wanted = control.value;
    const choices = known.map(({ resolution, memory_gb }, index) => {
      const memory = memory_gb ? `, about ${memory_gb} GB` : "";
      return element(
        "option",
        { value: index === 0 ? "" : resolution },
        `${resolution}${index === 0 ? " (finest)" : ""}${memory}`,
      );
    });
    control.replaceChildren(...(choices.length ? choices : [element("option", { value: "" }, "Finest")]));
    if ([...control.options].some((choice) => choice.value === wanted)) control.value = wanted;
  }

  // What stands in the form, by option name. Empty fields are left out: the server knows what they mean.
  values() {
    const values = {};
    for (const option of this.options) {
      const control = byId(`option-${option.name}`);
      if (option.type === "array")
        values[option.name] = [...control.querySelectorAll("input:checked")].map((box) => box.value);
      else if (option.type === "boolean") values[option.name] = control.checked;
      else if (control.value.trim() !== "") values[option.name] = this.typed(option, control.value.trim());
    }
    return values;
  }

  typed(option, text) {
    if (option.name === "seed") return text.replace(/^0+(?=\d)/, ""); // text on purpose: see api.js
    return option.type === "integer" || option.type === "number" ? Number(text) : text;
  }

  // Puts the options of an earlier job into the form.
  set(values) {
    byId("option-preset").value = values.preset ?? this.capabilities.default_preset;
    this.fillResolutions();
    for (const option of this.options.filter(({ name }) => name !== "preset")) {
      const control = byId(`option-${option.name}`);
      const value = values[option.name] ?? null;
      if (option.type === "array")
        control
          .querySelectorAll("input")
          .forEach((box) => (box.checked = (value ?? option.default).includes(box.value)));
      else if (option.type === "boolean") control.checked = value ?? option.default;
      else if (control.tagName === "SELECT")
        control.value = [...control.options].some((choice) => choice.value === String(value))
          ? String(value)
          : (option.default ?? "");
      else control.value = value === null || value === option.default ? "" : String(value);
    }
    this.clearAll();
  }

  // Shows the server's words beside the option they are about; false if it is no option of this form.
  markWrong(name, message) {
    const wrong = byId(`option-${name}-wrong`);
    if (!wrong) return false;
    const control = byId(`option-${name}`);
    wrong.textContent = message;
    wrong.hidden = false;
    control.setAttribute("aria-invalid", "true");
    if (byId("options-more").contains(control)) byId("options-more").open = true;
    (control.querySelector("input") ?? control).focus(); // a group of boxes takes no focus itself
    return true;
  }

  clearWrong(name) {
    byId(`option-${name}-wrong`).hidden = true;
    byId(`option-${name}`).removeAttribute("aria-invalid");
  }

  clearAll() {
    this.options.forEach((option) => this.clearWrong(option.name));
  }
}

function presetChoice(preset, standard) {
  const missing = preset.installed ? "" : " (not installed)";
  return element(
    "option",
    { value: preset.name, selected: preset.name === standard, disabled: !preset.installed },
    `${preset.title || preset.name}${missing}`,
  );
}

function checkbox(id, value, label, checked) {
  return element("label", { class: "box", for: id }, element("input", { type: "checkbox", id, value, checked }), label);
}

function withDice(control) {
  const roll = () => {
    control.value = String(crypto.getRandomValues(new Uint32Array(1))[0]);
    control.dispatchEvent(new Event("input"));
  };
  const dice = element(
    "button",
    { type: "button", id: "dice", title: "Draw a seed", "aria-label": "Draw a seed", onclick: roll },
    "⚄",
  );
  return element("div", { class: "row" }, control, dice);
}
