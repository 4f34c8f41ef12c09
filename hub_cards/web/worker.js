// Decodes images and runs the model, apart from the page, which stays usable meanwhile.
//
// In:  {type: "load", model, total, threads}   {type: "analyse", id, file}   {type: "slice", id, index}, of the last volume
// Out: {type: "progress", share}   {type: "ready", threads}   {type: "failed", message}
//      {type: "answer", id, width, height, pixels, outputs, milliseconds, slice}   {type: "refused", id, message}
//      where `slice` is null or {index, count, spacing}
import { checkSize, decoded } from "./decoding.js";
import * as ort from "./runtime/ort.wasm.min.mjs";
import { isVolume, openedVolume, sliceOf } from "./volumes.js";

const address = (name) => new URL(name, import.meta.url).href;
let session;
let volume;

async function load({ model, total, threads }) {
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
  ort.env.wasm.wasmBinary = await bytesOf("runtime/ort-wasm-simd-threaded.wasm");
  ort.env.wasm.wasmPaths = { mjs: address("runtime/ort-wasm-simd-threaded.mjs") };
  ort.env.wasm.numThreads = threads;
  session = await ort.InferenceSession.create(await bytesOf(model), { executionProviders: ["wasm"] });
  postMessage({ type: "ready", threads });
}

async function analyse({ id, file, index }) {
  if (id !== latest) return; // another image was given meanwhile
  const opened = file && isVolume(file.name) ? await openedVolume(file, checkSize) : file ? null : volume;
  const shown = opened && { index: index ?? opened.count >> 1, count: opened.count, spacing: opened.spacing };
  const { width, height, pixels } = opened ? sliceOf(opened, shown.index) : await decoded(file);
  volume = opened; // only now, since a file that is refused changes nothing
  const begin = performance.now();
  const image = new ort.Tensor("uint8", pixels, [1, height, width, 3]);
  const found = await session.run({ image });
  const milliseconds = performance.now() - begin;
  const outputs = Object.fromEntries(Object.entries(found).map(([name, tensor]) => [name, tensor.data]));
  postMessage({ type: "answer", id, width, height, pixels, outputs, milliseconds, slice: shown });
}

async function answer(data) {
  try {
    await (data.type === "load" ? load(data) : analyse(data));
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
