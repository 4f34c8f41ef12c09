// The page where it computes otherwise than on one thread: node page_runtimes.mjs URL ISOLATED FOLDER CHROMIUM IMAGE -> JSON.
//
// Answers the image by WebGPU, on a software adapter, from URL?device=webgpu, and by several threads from ISOLATED, the same page
// with the headers of the Space. Tells too which files of WebGPU the page asks for without ?device=webgpu.
import { join } from "node:path";

import { openedPage } from "./opened_page.mjs";

const [url, isolated, folder, executablePath, image] = process.argv.slice(2);
const GPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"];

// Saved files of the one must not replace those of the other.
async function answered(kind, address, { flags, cores, before = async () => ({}) }) {
  const opened = await openedPage(address, join(folder, kind), executablePath, flags, cores);
  const { page, problems, requests, status, give, saved } = opened;
  try {
    const found = { ...(await before(page)), ready: await status.innerText(), problems, requests };
    if (!found.ready.startsWith("Ready")) return found;
    const asked = performance.now();
    await give(image);
    found.took = performance.now() - asked;
    const path = await saved("Save the answer");
    return { ...found, answer: path, mask: await saved("Save the mask") };
  } finally {
    await opened.close();
  }
}

async function adapter(page) {
  return { hasAdapter: await page.evaluate(async () => Boolean(await navigator.gpu?.requestAdapter())) };
}

const webgpu = await answered("webgpu", `${url}?device=webgpu`, { flags: GPU, before: adapter });
const threads = await answered("threads", isolated, { cores: 2 });
process.stdout.write(JSON.stringify({ webgpu, threads }));
