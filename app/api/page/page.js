// The page's state, and what each gesture does to it.

import { Problem, apiKey, curlLine, download, explain, get } from "./api.js";
import {
  $, drawClasses, drawHeatmap, drawMethods, drawModels, drawProblem, drawSamples, drawTimings, markClasses, markSamples, percent, say,
} from "./view.js";

const POLL_MS = 3000;

let models = [];
let methods = [];
let method = "gradcam";
let limits = {};
let model = null;    // the chosen model's name
let picture = null;  // the File on the stage
let sample = null;   // its name, if it is one of the samples
let result = null;   // the answer for it
let running = new AbortController();
let poll = 0;

const isReady = (name) => models.some((m) => m.name === name && m.state === "ready");

async function start() {
  try {
    limits = await get("/api/v1/limits");
    say("accepted", `${limits.formats.join(", ")} up to ${megabytes(limits.max_body_bytes)}`);
    const { samples } = await get("/api/v1/samples");
    await refreshModels();
    drawSamples(samples, openSample);  // no sooner: run() would cut short what a click had begun
    markSamples(isReady, sample);
    run();
  } catch (error) {
    report(error, start);
  }
}

/** Asks again while a model is still on its way. */
async function refreshModels() {
  const catalogue = await get("/api/v1/models");
  models = catalogue.models;
  if (!methods.length) ({ methods } = await get("/api/v1/methods"));
  if (!isReady(model)) model = [catalogue.default, ...models.map((m) => m.name)].find(isReady) ?? null;
  showModel();
  markSamples(isReady, sample);
  const waiting = !models.length || models.some((m) => m.state === "loading");
  clearTimeout(poll);
  if (waiting) poll = setTimeout(() => refreshModels().catch((error) => report(error, start)), POLL_MS);
}

/** Shows the chosen model, and a method that suits it. */
function showModel() {
  const suited = models.find(({ name }) => name === model)?.methods ?? [];
  if (suited.length && !suited.includes(method)) method = "gradcam";
  drawModels(models, model);
  drawMethods(methods, suited, method);
}

async function openSample({ name, url, model: suited }) {
  const signal = begin();
  try {
    const blob = await download(url);
    if (signal.aborted) return;
    model = suited;
    showModel();
    open(new File([blob], url.split("/").pop(), { type: blob.type }), name);
  } catch (error) {
    report(error);
  }
}

/** Puts a picture on the stage and has it explained. */
function open(file, sampleName = null) {
  picture = file;
  sample = sampleName;
  markSamples(isReady, sample);
  URL.revokeObjectURL($("picture").src);
  $("picture").src = URL.createObjectURL(file);
  $("picture").alt = `Your picture: ${file.name}`;
  $("empty").hidden = true;
  $("controls").hidden = false;
  run();
}

async function run() {
  const signal = begin();
  if (!picture) return;
  if (picture.size > limits.max_body_bytes) return report(tooLarge());
  if (!model) return report(new Problem("No model is ready yet", { detail: "Try again in a moment.", retryable: true }));
  // The slider is the page's own opacity, so the server's is switched off with alpha=1.
  const options = { model, method, classes: "top3", top_k: "5", alpha: "1" };
  $("busy").hidden = false;
  say("status", `Explaining ${picture.name} …`);
  const isSlow = methods.find(({ name }) => name === method)?.lane === "slow";
  try {
    const answer = await explain(picture, options, signal, isSlow && tellProgress);
    await $("picture").decode().catch(() => {});  // so that picture and heatmap appear together
    if (!signal.aborted) show(answer, options);
  } catch (error) {
    if (error.name !== "AbortError") report(error, run);
  } finally {
    if (!signal.aborted) $("busy").hidden = true;
  }
}

/** In tenths, as the status is read out by screen readers. */
function tellProgress({ done, total }) {
  say("status", `Explaining ${picture.name} … ${10 * Math.floor((10 * done) / total)} %`);
}

/** Ends what is running, and clears what it had shown. */
function begin() {
  running.abort();
  running = new AbortController();
  result = null;
  for (const id of ["problem", "heatmap", "crop", "seen", "notes", "timings", "call", "busy"]) $(id).hidden = true;
  $("classes").replaceChildren();
  return running.signal;
}

function show(answer, options) {
  result = answer;
  drawClasses(answer, chooseClass);
  drawTimings(answer.timings_ms);
  $("curl").textContent = curlLine(picture, options);
  $("call").hidden = false;
  chooseClass(answer.explanations[0].index);
}

function chooseClass(index) {
  const explanation = result.explanations.find((e) => e.index === index);
  markClasses(index);
  drawHeatmap(explanation, result.image);
  drawOpacity();
  const prediction = result.predictions.find((p) => p.index === index);
  say("status", `Heatmap of “${explanation.label}”, ${percent(prediction.score)}.`);
}

function drawOpacity() {
  $("opacity").disabled = !$("show").checked;
  $("heatmap").hidden = !result || !$("show").checked;
  $("heatmap").style.opacity = $("opacity").value / 100;
}

function report(error, retry) {
  $("busy").hidden = true;
  say("status", picture ? "No answer for this picture." : "No picture yet.");
  drawProblem(error, retry);
  if (error.status === 401) {
    $("access").open = true;
    $("key").focus();
  }
}

function tooLarge() {
  const detail = `It has ${megabytes(picture.size)}; this server takes up to ${megabytes(limits.max_body_bytes)}.`;
  return new Problem("This picture is too large", { detail });
}

const megabytes = (bytes) => `${+(bytes / 1e6).toFixed(1)} MB`;

/** Takes the first file of a drop or a paste. */
function take(transfer) {
  const [file] = transfer?.files ?? [];
  if (file) open(file);
  return Boolean(file);
}

for (const button of document.querySelectorAll(".choose")) button.onclick = () => $("file").click();
$("file").onchange = () => {
  take($("file"));
  $("file").value = "";  // so that the same file can be chosen again
};
document.addEventListener("paste", (event) => take(event.clipboardData));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();  // the browser would open the file in place of the page
  document.body.classList.remove("dragging");
  if (!take(event.dataTransfer)) report(new Problem("That was no file", { detail: "Save the picture first, then drop it here." }));
});

$("picture").onload = () => {
  $("frame").style.setProperty("--ratio", $("picture").naturalWidth / $("picture").naturalHeight);
  $("frame").hidden = false;
};
$("picture").onerror = () => {  // the server may read what the browser cannot
  $("frame").hidden = true;
  $("empty").hidden = false;
};
$("model").onchange = () => {
  model = $("model").value;
  showModel();
  run();
};
$("method").onchange = () => {
  method = $("method").value;
  showModel();
  run();
};
$("show").onchange = drawOpacity;
$("opacity").oninput = drawOpacity;
$("copy").hidden = !navigator.clipboard;  // browsers offer it on https and localhost only
$("copy").onclick = async () => {
  await navigator.clipboard.writeText($("curl").textContent);
  $("copy").textContent = "Copied";
  setTimeout(() => ($("copy").textContent = "Copy"), 1500);
};
$("key").value = apiKey.get();
$("key-form").onsubmit = (event) => {
  event.preventDefault();
  apiKey.set($("key").value.trim());
  start();
};

start();
