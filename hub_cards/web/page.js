// The page: what goes in, what is shown, what can be saved. worker.js decodes and computes.
import { draw } from "./drawing.js";
import { encodedMask } from "./png.js";

const MOST_THREADS = 4;
const element = (id) => document.getElementById(id);
const describe = await fetch("model.json")
  .then((response) => response.json())
  .catch(() => say("model.json cannot be read; make the page again.", true));

let worker;
let answer; // the last one: {name, width, height, pixels, outputs, milliseconds, slice}
let asked = 0; // number of the last question
let name; // of the image that it is about

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
  worker.postMessage({ type: "load", model: describe.file, total: describe.bytes, threads });
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
  ready({ threads }) {
    element("progress").hidden = true;
    ready(true);
    say(`Ready, on ${threads === 1 ? "one thread" : `${threads} threads`}. Choose an image.`);
  },
  failed({ message }) {
    element("progress").hidden = true;
    say(`The model cannot be loaded: ${message}.`, true);
  },
  refused({ id, message }) {
    if (id === asked) say(`${name}: ${message}.`, true);
  },
  answer({ id, ...found }) {
    if (id !== asked) return; // another image was given meanwhile
    answer = { name, ...found };
    show();
  },
};

function say(text, isProblem = false) {
  element("status").textContent = text;
  element("status").classList.toggle("problem", isProblem);
}

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
  element("slice").addEventListener("input", ({ target }) => {
    name = answer.name;
    worker.postMessage({ type: "slice", id: ++asked, index: target.value - 1 });
  });
  element("opacity").addEventListener("input", redraw);
  element("spacing").addEventListener("input", showAreas);
  element("save-mask").addEventListener("click", saveMask);
  element("save-answer").addEventListener("click", () => {
    save(new Blob([`${JSON.stringify(report(), null, 2)}\n`], { type: "application/json" }), ".json");
  });
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
  name = file.name || "image";
  say(`Looking at ${name}`);
  worker.postMessage({ type: "analyse", id: ++asked, file });
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

// As ResFormerConfig.trust has it.
function trust() {
  const { distance_limit, confidence_limit, doubts = {} } = describe.metadata;
  const [distance] = answer.outputs.distance ?? [];
  const [confidence] = answer.outputs.confidence ?? [];
  if (distance === undefined) return null;
  const crossed = {
    unlike_training_images: typeof distance_limit === "number" && distance > distance_limit,
    low_confidence: confidence !== undefined && typeof confidence_limit === "number" && confidence < confidence_limit,
  };
  const flags = Object.keys(doubts).filter((flag) => crossed[flag]);
  const share = confidence === undefined ? "" : `${Math.round(100 * confidence)} %`;
  return { distance, confidence, flags, doubt: flags.length ? doubts[flags[0]].replace("{share}", share) : "" };
}

function showTrust() {
  const told = trust();
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
  element("slices").hidden = !slice;
  element("own-spacing").hidden = Boolean(slice?.spacing);
  if (!slice) return;
  element("slice").max = slice.count;
  // Not while it is moved on: an answer may come from a few slices before.
  if (document.activeElement !== element("slice")) element("slice").value = slice.index + 1;
  element("slice-number").textContent = `${slice.index + 1} of ${slice.count}`;
}

// mm² of a pixel, by the file or else by its reader; 0 where neither says.
function pixelArea() {
  const [row, column] = answer.slice?.spacing ?? [Number(element("spacing").value), Number(element("spacing").value)];
  return row > 0 ? row * column : 0;
}

function scores() {
  const { image_classes: names = [], thresholds, label_set_thresholds: lowest } = describe.metadata;
  return names.map((name, i) => ({
    name,
    score: answer.outputs.class_scores[i],
    threshold: thresholds ? thresholds[i] : null,
    predicted: Boolean(answer.outputs.predicted_classes[i]),
    ...(lowest ? { in_label_set: answer.outputs.class_scores[i] >= lowest[i] } : {}),
  }));
}

function areas() {
  const { mask_classes: names = [] } = describe.metadata;
  const pixels = new Array(names.length).fill(0);
  for (const index of answer.outputs.segmentation ?? []) pixels[index]++;
  return names.map((name, i) => ({
    name,
    pixels: pixels[i],
    share: pixels[i] / (answer.width * answer.height),
    mm2: pixelArea() ? pixels[i] * pixelArea() : null,
    mean_probability: answer.outputs.mean_probability?.[i],
  }));
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
  const doubt = trust()?.doubt;
  if (doubt) parts.push(doubt.replace(/\.$/, ""));
  const { slice } = answer;
  return `${answer.name}${slice ? `, slice ${slice.index + 1} of ${slice.count}` : ""}: ${parts.join("; ")}.`;
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
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

function figure(value) {
  return value.toFixed(3);
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
    return row(label, String(pixels), percent(share), mm2 === null ? "–" : mm2.toPrecision(4), pixels ? figure(mean) : "–");
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

// A name that a narrow table may break after its underscores.
function breakable(name) {
  const parts = document.createElement("span");
  for (const part of name.split(/(?<=_)/)) parts.append(part, document.createElement("wbr"));
  return parts;
}

function row(first, ...others) {
  const head = Object.assign(document.createElement("th"), { scope: "row" });
  head.append(first);
  const cells = others.map((text) => Object.assign(document.createElement("td"), { textContent: text }));
  const line = document.createElement("tr");
  line.append(head, ...cells);
  return line;
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

function report() {
  const { name: model, metadata } = describe;
  return {
    note: "Not a medical device.",
    image: answer.name,
    slice: answer.slice && answer.slice.index,
    width: answer.width,
    height: answer.height,
    model,
    weights: metadata.weights,
    classification_type: metadata.classification_type,
    class_scores: scores(),
    mask_classes: areas(),
    ...trust(),
    milliseconds: answer.milliseconds,
  };
}

async function saveMask() {
  const { outputs, width, height } = answer;
  save(await encodedMask(outputs.segmentation, width, height, describe.colours), "_mask.png");
}

// The image's name without its ending, and the slice as Python counts it.
function stem() {
  const whole = answer.name.replace(/(\.nii)?\.\w+$/i, "");
  return answer.slice ? `${whole}_${answer.slice.index}` : whole;
}

function save(blob, ending) {
  const href = URL.createObjectURL(blob);
  const link = Object.assign(document.createElement("a"), { href, download: stem() + ending });
  link.click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}

if (describe) start(describe);
