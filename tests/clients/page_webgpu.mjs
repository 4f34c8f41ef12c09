// The page with ?device=webgpu, on a software adapter: node page_webgpu.mjs URL FOLDER CHROMIUM IMAGE -> JSON on stdout.
//
// Tells its answer, and which files of WebGPU the page asks for without ?device=webgpu.
import { openedPage } from "./opened_page.mjs";

const [url, folder, executablePath, image] = process.argv.slice(2);
const flags = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"];
const opened = await openedPage(`${url}?device=webgpu`, folder, executablePath, flags);
const { page, problems, requests, status, give, saved } = opened;
try {
  const hasAdapter = await page.evaluate(async () => Boolean(await navigator.gpu?.requestAdapter()));
  const ready = await status.innerText();
  const found = { hasAdapter, ready, problems, requests };
  if (hasAdapter && ready.startsWith("Ready")) {
    const asked = performance.now();
    await give(image);
    found.took = performance.now() - asked;
    found.answer = await saved("Save the answer");
    found.mask = await saved("Save the mask");
  }
  const before = requests.length;
  await page.goto(url);
  await status.filter({ hasText: "Ready" }).waitFor();
  found.plain = requests.slice(before).filter((one) => /webgpu|asyncify/.test(one));
  process.stdout.write(JSON.stringify(found));
} finally {
  await opened.close();
}
