// The page: what goes in, what is shown, what can be saved. worker.js decodes and computes.
import { draw } from "./drawing.js";
import { areasOf, scoresOf, trustOf } from "./measuring.js";
import { breakable, element, figure, measure, percent, row, save, saveJson, say } from "./parts.js";
import { encodedMask } from "./png.js";
import { forgetWhole, saveVolume, saveWhole, showRun, showWhole } from "./whole_volume.js";

const MOST_THREADS = 4;
const describe = await fetch("model.json")
  .then((response) => response.json())
  .catch(() => say("model.json cannot be read; make the page again.", true));

let worker;
let answer; // the last one: {name, width, height, pixels, outputs, areas, milliseconds, slice}
let asked = 0; // number of the last question
let name; // of the image that it is about
let isNew = false; // whether that is another image than the one that is shown
let run; // through all slices: {done, milliseconds}; null while there is none

function start({ name, metadata, examples, licence }) {
  document.title = `${name} in your browser`;
  element("title").textContent = document.title;
  element("about").textContent =
    `Weights ${metadata.weights.slice(0, 12)}, ${metadata.precision}. Images are resized to ` +
    `${metadata.size ? metadata.size.join(" x ") : "no other size"} before the network sees them.`;
  element("licence").textContent = examples.length ? `Examples: ${licence}` : "";
  element("examples").append(...examples.map(exampleButton));
  listen();
  ready(false);
  worker = makeWorker();
  worker.addEventListener("message", ({ data }) => answers[data.type](data));
  worker.addEventListener("error", () => say("The worker that runs the model cannot be started.", true));
  say("Loading the model");
  // Without the headers that isolate a page, browsers share no memory among threads.
  const threads = crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1) : 1;
  const device = chosenDevice();
  const total = device === "webgpu" ? describe.webgpu_bytes : describe.bytes;
  worker.postMessage({ type: "load", model: describe.file, total, threads, device });
}

// "wasm", or "webgpu" where the page was made with it, the browser has it and the address asks for it.
function chosenDevice() {
  if (!describe.webgpu_bytes) return "wasm";
  const isAsked = new URLSearchParams(location.search).get("device") === "webgpu";
  const device = isAsked && navigator.gpu ? "webgpu" : "wasm";
  const size = Math.round(describe.webgpu_bytes / 1e6);
  const link = Object.assign(document.createElement("a"), {
    href: isAsked ? location.pathname : "?device=webgpu",
    textContent: isAsked ? "Use the processor" : `Use WebGPU instead of the processor: loads ${size} MB, untested on graphics cards`,
  });
  element("device").hidden = false;
  element("device").append(isAsked && device === "wasm" ? "This browser has no WebGPU; the processor computes. " : "", link);
  return device;
}

// By way of a blob, since only such a worker is held to this page's Content-Security-Policy.
function makeWorker() {
  const source = `import ${JSON.stringify(new URL("worker.js", import.meta.url).href)};`;
  const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  return new Worker(address, { type: "module" });
}

const answers = {
  progress({ share }) {
    element("progress").value = share;
  },
  ready({ threads, device }) {
    element("progress").hidden = true;
    ready(true);
    const place = device === "webgpu" ? "WebGPU" : threads === 1 ? "one thread" : `${threads} threads`;
    say(`Ready, on ${place}. Choose an image.`);
  },
  failed({ message }) {
    element("progress").hidden = true;
    say(`The model cannot be loaded: ${message}.`, true);
  },
  refused({ id, message }) {
    if (id !== asked) return;
    isNew = false;
    endRun();
    say(`${name}: ${message}.`, true);
  },
  answer({ id, ...found }) {
    if (id !== asked) return; // another image was given meanwhile
    answer = { name, ...found };
    if (isNew) forgetWhole();
    show();
    isNew = false;
  },
  done({ id, done, milliseconds }) {
    if (id !== asked) return;
    run = { done, milliseconds };
    showRun(run, answer.slice.count);
  },
  whole({ id, ...found }) {
    if (id !== asked) return;
    endRun();
    const told = showWhole(found, describe.metadata, { about: about(), stem: wholeStem(), goTo: goToSlice });
    say(`${name}, all ${found.slices.length} slices: ${told}.`);
  },
};

function ready(isReady) {
  for (const control of document.querySelectorAll("input[type=file], #examples button")) control.disabled = !isReady;
}

function listen() {
  for (const id of ["file", "camera"]) {
    element(id).addEventListener("change", ({ target }) => {
      if (target.files[0]) analyse(target.files[0]);
      target.value = ""; // so that the same file can be chosen again
    });
  }
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", ({ relatedTarget }) => {
    if (!relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    takeFrom(event.dataTransfer);
  });
  document.addEventListener("paste", ({ clipboardData, target }) => {
    if (target.type !== "number") takeFrom(clipboardData);
  });
  element("slice").addEventListener("input", ({ target }) => askForSlice(target.value - 1));
  element("all-slices").addEventListener("click", () => (run ? stopRun() : startRun()));
  element("save-volume").addEventListener("click", saveVolume);
  element("save-whole").addEventListener("click", saveWhole);
  element("opacity").addEventListener("input", redraw);
  element("spacing").addEventListener("input", showAreas);
  element("save-mask").addEventListener("click", saveMask);
  element("save-answer").addEventListener("click", () => saveJson(report(), `${stem()}.json`));
}

function takeFrom({ files }) {
  if (files[0]) analyse(files[0]);
  else say("That was no image file.", true);
}

function exampleButton(path, number) {
  const image = Object.assign(document.createElement("img"), { src: path, alt: `Example ${number + 1}` });
  const button = Object.assign(document.createElement("button"), { type: "button" });
  button.append(image);
  button.addEventListener("click", async () => {
    // From what the page has loaded already, so that nothing is asked for again.
    const blob = await kept(path);
    analyse(new File([blob], path.split("/").pop(), { type: blob.type }));
  });
  kept(path);
  return button;
}

const keep = new Map();
function kept(path) {
  if (!keep.has(path)) keep.set(path, fetch(path).then((response) => response.blob()));
  return keep.get(path);
}

function analyse(file) {
  if (element("file").disabled) return say("The model is still being loaded.", true);
  endRun();
  name = file.name || "image";
  isNew = true;
  say(`Looking at ${name}`);
  worker.postMessage({ type: "analyse", id: ++asked, file });
}

function askForSlice(index) {
  if (isNew) return; // the worker may have that one already
  name = answer.name;
  worker.postMessage({ type: "slice", id: ++asked, index });
}

function goToSlice(index) {
  if (run) return;
  element("slice").value = index + 1;
  askForSlice(index);
  element("canvas").scrollIntoView({ block: "nearest" });
}

function startRun() {
  if (isNew) return;
  name = answer.name;
  run = { done: 0, milliseconds: 0 };
  showRun(run, answer.slice.count);
  say(`Looking at all ${answer.slice.count} slices of ${name}`);
  worker.postMessage({ type: "whole", id: ++asked });
}

function stopRun() {
  say(`${name}: stopped after ${run.done} of ${answer.slice.count} slices.`);
  endRun();
  worker.postMessage({ type: "stop", id: ++asked });
}

function endRun() {
  if (run) showRun(null, answer.slice.count);
  run = null;
}

function show() {
  showSlice();
  element("empty").hidden = true;
  element("answer").hidden = false;
  element("scores").hidden = !answer.outputs.class_scores;
  element("masks").hidden = element("save-mask").hidden = !answer.outputs.segmentation;
  element("time").textContent = `${answer.width} x ${answer.height} pixels, ${Math.round(answer.milliseconds)} ms`;
  showTrust();
  if (answer.outputs.class_scores) showScores();
  if (answer.outputs.segmentation) showAreas();
  redraw();
  const told = summary();
  element("canvas").setAttribute("aria-label", told);
  say(told);
}

function showTrust() {
  const told = trustOf(answer.outputs, describe.metadata);
  element("doubt").hidden = !told?.doubt;
  element("doubt").textContent = told?.doubt ?? "";
  // Of images that are unlike the validation images it says nothing.
  const isTold = told?.confidence !== undefined && !told.flags.includes("unlike_training_images");
  element("confidence").hidden = !isTold;
  if (isTold) {
    const share = Math.round(100 * told.confidence);
    element("confidence").textContent = `Confidence ${share} %: so often mask and labels of such answers were right.`;
  }
}

function showSlice() {
  const { slice } = answer;
  element("volume").hidden = element("slice-heading").hidden = !slice;
  element("own-spacing").hidden = Boolean(slice?.spacing);
  if (!slice) return;
  const slider = element("slice");
  slider.max = slice.count;
  // Not while it is moved on: an answer may come from a few slices before.
  if (isNew || document.activeElement !== slider) slider.value = slice.index + 1;
  slider.ariaValueText = element("slice-number").textContent = `${slice.index + 1} of ${slice.count}`;
  if (!run) showRun(null, slice.count);
}

// mm² of a pixel, by the file or else by its reader; 0 where neither says.
function pixelArea() {
  const own = Number(element("spacing").value);
  const [row, column] = answer.slice?.spacing?.slice(1) ?? [own, own];
  return row > 0 ? row * column : 0;
}

function scores() {
  return scoresOf(answer.outputs, describe.metadata);
}

function areas() {
  return areasOf(answer.areas ?? [], answer.outputs, answer.width * answer.height, pixelArea(), describe.metadata);
}

function summary() {
  const flagged = scores().filter(({ predicted }) => predicted);
  const outlined = areas().slice(1).filter(({ pixels }) => pixels);
  const parts = [];
  if (answer.outputs.segmentation) {
    const told = outlined.map(({ name, share }) => `${name} on ${percent(share)} of the image`).join(", ");
    parts.push(`outlined: ${told || "nothing"}`);
  }
  if (answer.outputs.class_scores) {
    const told = flagged.map(({ name, score }) => `${name} (${score.toFixed(2)})`).join(", ");
    parts.push(describe.metadata.thresholds ? `flagged: ${told || "nothing"}` : `highest: ${told}`);
  }
  const doubt = trustOf(answer.outputs, describe.metadata)?.doubt;
  if (doubt) parts.push(doubt.replace(/\.$/, ""));
  const { slice } = answer;
  return `${answer.name}${slice ? `, slice ${slice.index + 1} of ${slice.count}` : ""}: ${parts.join("; ")}.`;
}

function showScores() {
  const hasThresholds = Boolean(describe.metadata.thresholds);
  element("rule").textContent = hasThresholds ? "Threshold" : "";
  const rows = scores().map(({ name, score, threshold, predicted }) => {
    const [reached, missed] = hasThresholds ? ["flagged", "below"] : ["highest", ""];
    const decision = predicted ? reached : missed;
    const line = row(breakable(name), figure(score), threshold === null ? "" : figure(threshold), decision);
    line.classList.toggle("flagged", predicted);
    return line;
  });
  element("scores").tBodies[0].replaceChildren(...rows);
}

function showAreas() {
  const body = element("areas").tBodies[0];
  const hidden = new Set([...body.querySelectorAll("input:not(:checked)")].map(({ value }) => value));
  const rows = areas().slice(1).map(({ name, pixels, share, mm2, mean_probability: mean }, i) => {
    const box = Object.assign(document.createElement("input"), { type: "checkbox", value: i + 1 });
    box.checked = !hidden.has(String(i + 1));
    box.addEventListener("change", redraw);
    const label = document.createElement("label");
    label.append(box, swatch(i + 1), breakable(name));
    return row(label, String(pixels), percent(share), measure(mm2), pixels ? figure(mean) : "–");
  });
  body.replaceChildren(...rows);
}

function swatch(index) {
  const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1, className: "swatch" });
  const context = canvas.getContext("2d");
  context.fillStyle = `rgb(${describe.colours[index]})`; // not by style=, which the policy of the page forbids
  context.fillRect(0, 0, 1, 1);
  canvas.ariaHidden = "true";
  return canvas;
}

function redraw() {
  if (!answer) return;
  const shown = { 0: false };
  for (const box of element("areas").querySelectorAll("input")) shown[box.value] = box.checked;
  draw(element("canvas"), {
    ...answer,
    mask: answer.outputs.segmentation,
    colours: describe.colours,
    shown,
    opacity: element("opacity").value / 100,
  });
}

// The head of all that is saved.
function about() {
  const { name: model, metadata } = describe;
  const { weights, classification_type } = metadata;
  return { note: "Not a medical device.", image: answer.name, model, weights, classification_type };
}

function report() {
  return {
    ...about(),
    slice: answer.slice && answer.slice.index,
    width: answer.width,
    height: answer.height,
    class_scores: scores(),
    mask_classes: areas(),
    ...trustOf(answer.outputs, describe.metadata),
    milliseconds: answer.milliseconds,
  };
}

async function saveMask() {
  const { outputs, width, height } = answer;
  save(await encodedMask(outputs.segmentation, width, height, describe.colours), `${stem()}_mask.png`);
}

// The image's name without its ending.
function wholeStem() {
  return answer.name.replace(/(\.nii)?\.\w+$/i, "");
}

// The same, with the slice as Python counts it.
function stem() {
  return answer.slice ? `${wholeStem()}_${answer.slice.index}` : wholeStem();
}

if (describe) start(describe);
