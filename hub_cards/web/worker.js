// Decodes images and runs the model, apart from the page, which stays usable meanwhile.
//
// In:  {type: "load", model, total, threads, device}   {type: "analyse", id, file}   {type: "slice", id, index} and
//      {type: "whole", id}, of the last volume   {type: "stop", id}
// Out: {type: "progress", share}   {type: "ready", threads, device}   {type: "failed", message}
//      {type: "answer", id, width, height, pixels, outputs, areas, milliseconds, slice}   {type: "refused", id, message}
//      {type: "done", id, done, milliseconds}, of a whole volume   {type: "whole", id, ending, width, height, spacing, slices, mask, milliseconds}
//      where `slice` is null or {index, count, spacing}, `slices` are {outputs, pixels}, and `mask` is a Blob or null
import { checkSize, decoded } from "./decoding.js";
import { pixelsByClass } from "./measuring.js";
import { isVolume, maskFile, openedVolume, sliceOf } from "./volumes.js";

const RUNTIMES = {
  wasm: { module: "runtime/ort.wasm.min.mjs", build: "runtime/ort-wasm-simd-threaded" },
  webgpu: { module: "runtime/ort.webgpu.min.mjs", build: "runtime/ort-wasm-simd-threaded.asyncify" },
};
const address = (name) => new URL(name, import.meta.url).href;
let ort;
let session;
let volume;

async function load({ model, total, threads, device }) {
  let received = 0;
  async function bytesOf(name) {
    const response = await fetch(address(name));
    if (!response.ok) throw new Error(`${name}: the server answers ${response.status}`);
    const parts = [];
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      received += value.length;
      postMessage({ type: "progress", share: Math.min(1, received / total) });
    }
    return new Uint8Array(await new Blob(parts).arrayBuffer());
  }
  const { module, build } = RUNTIMES[device];
  ort = await import(address(module));
  ort.env.wasm.wasmBinary = await bytesOf(`${build}.wasm`);
  ort.env.wasm.wasmPaths = { mjs: address(`${build}.mjs`) };
  ort.env.wasm.numThreads = threads;
  session = await ort.InferenceSession.create(await bytesOf(model), { executionProviders: [device] });
  postMessage({ type: "ready", threads, device });
}

async function found({ width, height, pixels }) {
  const begin = performance.now();
  const answers = await session.run({ image: new ort.Tensor("uint8", pixels, [1, height, width, 3]) });
  const milliseconds = performance.now() - begin;
  const outputs = Object.fromEntries(Object.entries(answers).map(([name, tensor]) => [name, tensor.data]));
  const mask = outputs.segmentation;
  return { outputs, pixels: mask && pixelsByClass(mask, outputs.area_fraction.length), milliseconds };
}

async function analyse({ id, file, index }) {
  const opened = file && isVolume(file.name) ? await openedVolume(file, checkSize) : file ? null : volume;
  const shown = opened && { index: index ?? opened.count >> 1, count: opened.count, spacing: opened.spacing };
  const image = opened ? sliceOf(opened, shown.index) : await decoded(file);
  volume = opened; // only now, since a file that is refused changes nothing
  const { outputs, pixels: areas, milliseconds } = await found(image);
  postMessage({ type: "answer", id, ...image, outputs, areas, milliseconds, slice: shown });
}

async function analyseWhole({ id }) {
  const { ending, width, height, count, spacing } = volume;
  let masks;
  let milliseconds = 0;
  const slices = [];
  for (let index = 0; index < count; index++) {
    const { outputs, ...one } = await found(sliceOf(volume, index));
    const { segmentation, ...others } = outputs;
    if (segmentation) {
      masks ??= new Uint8Array(count * height * width);
      masks.set(segmentation, index * height * width);
    }
    slices.push({ outputs: others, pixels: one.pixels });
    milliseconds += one.milliseconds;
    postMessage({ type: "done", id, done: index + 1, milliseconds });
    await messages();
    if (id !== latest) return; // it was stopped, or another image given
  }
  const mask = masks ? await maskFile(volume, masks) : null;
  postMessage({ type: "whole", id, ending, width, height, spacing, slices, mask, milliseconds });
}

// Until messages that wait have been heard: a run on one thread lets none through.
function messages() {
  return new Promise((resolve) => setTimeout(resolve));
}

async function answer(data) {
  await messages();
  if (data.id !== latest || data.type === "stop") return; // another question was asked meanwhile
  try {
    await { load, analyse, slice: analyse, whole: analyseWhole }[data.type](data);
  } catch (error) {
    const message = error instanceof Error ? error.message : `the runtime stopped (${error})`;
    postMessage(data.type === "load" ? { type: "failed", message } : { type: "refused", id: data.id, message });
  }
}

// One after the other, since a session answers one question at a time.
let latest;
let before = Promise.resolve();
addEventListener("message", ({ data }) => {
  latest = data.id;
  before = before.then(() => answer(data));
});
