// Draws. Text from the server becomes text nodes, never markup.

const FLAGS = {
  no_positive_evidence: (label) => `Nothing in the picture speaks for “${label}”, so its heatmap is blank.`,
  low_contrast: () => "All of the picture is nearly as warm: do not read much into the difference.",
  saturated_score: () => "The model is as sure as it can be: its score hardly tells this picture from others.",
  budget_exhausted: () => "The method was cut short: more passes would make a steadier map.",
};

export const $ = (id) => document.getElementById(id);

/** An element with properties and children; strings become text nodes. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Shows a text, or hides the element where there is none. */
export function say(id, text) {
  $(id).textContent = text;
  $(id).hidden = !text;
}

export function drawModels(models, chosen) {
  const option = ({ name, state }) =>
    make("option", { value: name, disabled: state !== "ready" }, state === "ready" ? name : `${name} (${state})`);
  $("model").replaceChildren(...models.map(option));
  $("model").disabled = !models.some(({ state }) => state === "ready");
  $("model").value = chosen ?? "";
  $("description").textContent = models.find(({ name }) => name === chosen)?.description ?? "No model is ready yet.";
}

/** The methods that suit the chosen model; those of many passes say so. */
export function drawMethods(methods, suited, chosen) {
  const fitting = methods.filter(({ name }) => suited.includes(name));
  const option = ({ name, title, lane }) => make("option", { value: name }, lane === "slow" ? `${title} (slow)` : title);
  $("method").replaceChildren(...fitting.map(option));
  $("method").disabled = !fitting.length;
  $("method").value = chosen;
  say("warning", fitting.find(({ name }) => name === chosen)?.warning ?? "");
}

export function drawSamples(samples, choose) {
  const item = (sample) => {
    const image = make("img", { src: sample.url, alt: "" });
    const button = make("button", { type: "button", onclick: () => choose(sample) }, image, make("span", {}, sample.caption));
    Object.assign(button.dataset, { name: sample.name, model: sample.model });
    return make("li", {}, button);
  };
  $("samples").querySelector("ul").replaceChildren(...samples.map(item));
  $("samples").hidden = !samples.length;
}

/** Marks the sample on the stage, and switches off those whose model cannot answer. */
export function markSamples(isReady, current) {
  for (const button of $("samples").querySelectorAll("button")) {
    const { name, model } = button.dataset;
    button.disabled = !isReady(model);
    button.title = button.disabled ? `The model “${model}” is not ready.` : "";
    button.setAttribute("aria-pressed", name === current);
  }
}

/** One bar for each class; those with a map are buttons. */
export function drawClasses({ predictions, explanations }, choose) {
  const mapped = new Set(explanations.map(({ index }) => index));
  const item = ({ index, label, score }) => {
    const bar = make("span", { className: "bar" });
    bar.style.width = `${100 * score}%`;
    const parts = [bar, make("span", {}, label), make("span", { className: "score" }, percent(score))];
    if (!mapped.has(index)) return make("li", {}, make("div", {}, ...parts));
    const button = make("button", { type: "button", onclick: () => choose(index) }, ...parts);
    button.dataset.index = index;
    return make("li", {}, button);
  };
  $("classes").replaceChildren(...predictions.map(item));
}

/** Marks the class whose heatmap is shown. */
export function markClasses(shown) {
  for (const button of $("classes").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", button.dataset.index === String(shown));
  }
}

/** Lays one class's heatmap over the picture, and the frame of what the model saw. */
export function drawHeatmap({ heatmap, label, flags, grid }, { width, height, crop }) {
  $("heatmap").src = `data:${heatmap.media_type};base64,${heatmap.base64}`;
  $("heatmap").alt = `Heatmap of “${label}”` + (flags.includes("no_positive_evidence") ? "" : `, strongest ${peakInWords(grid, width, height, crop)}`);
  const [x0, y0, x1, y1] = crop;
  place($("crop"), { left: x0 / width, top: y0 / height, width: (x1 - x0) / width, height: (y1 - y0) / height });
  $("crop").hidden = x1 - x0 >= width && y1 - y0 >= height;
  say("seen", hint(width, $("crop").hidden));
  say("notes", flags.map((flag) => FLAGS[flag]?.(label) ?? `Note: ${flag.replaceAll("_", " ")}.`).join(" "));
}

function hint(width, whole) {
  const displayed = $("picture").naturalWidth;
  if (!displayed) return "This browser cannot show the picture; the classes are the server’s.";
  if (displayed !== width) return "This browser shows the picture turned, so the heatmap does not lie right on it.";
  return whole ? "" : "The model saw only what lies inside the dashed frame.";
}

export function drawTimings({ total, ...steps }) {
  const list = Object.entries(steps).map(([step, ms]) => `${step} ${number(ms)}`).join(" · ");
  say("timings", `${number(total)} ms: ${list}`);
}

export function drawProblem(error, retry) {
  const lines = [make("strong", {}, error.message)];
  if (error.detail) lines.push(make("p", {}, error.detail));
  if (error.errors?.length) {
    lines.push(make("ul", {}, ...error.errors.map((e) => make("li", {}, [e.field, e.detail].filter(Boolean).join(": ")))));
  }
  if (error.retryAfter) lines.push(make("p", {}, `The server asks to wait ${error.retryAfter} s before the next try.`));
  if (error.requestId) lines.push(make("p", { className: "small" }, `Request id: ${error.requestId}`));
  if (retry && error.retryable) lines.push(make("button", { type: "button", onclick: retry }, "Try again"));
  $("problem").replaceChildren(...lines);
  $("problem").hidden = false;
}

export const percent = (score) => `${(100 * score).toFixed(1)} %`;
const number = (ms) => ms.toFixed(ms < 10 ? 1 : 0);

function place(element, fractions) {
  for (const [side, fraction] of Object.entries(fractions)) element.style[side] = `${100 * fraction}%`;
}

/** Where the strongest cell lies, for those who cannot see it: "upper left", say. */
function peakInWords({ values, shape: [rows, columns] }, width, height, [x0, y0, x1, y1]) {
  const cells = values.flat();
  const peak = cells.indexOf(Math.max(...cells));
  const x = (x0 + ((peak % columns) + 0.5) / columns * (x1 - x0)) / width;
  const y = (y0 + (Math.floor(peak / columns) + 0.5) / rows * (y1 - y0)) / height;
  const third = (at, names) => names[Math.min(2, Math.floor(3 * at))];
  return `${third(y, ["upper", "middle", "lower"])} ${third(x, ["left", "centre", "right"])}`;
}
