// npm's @huggingface/widgets, the widget of model pages, in headless Chromium against a server:
//
//   node widget.mjs URL TASK PICTURE SCREENSHOT.png [CHROMIUM] -> JSON on stdout of what the page shows
//
// TASK is image-segmentation or image-classification. The page comes from another port than the server, so that the
// browser asks for CORS as it does on a model page.
import { createServer } from "node:http";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";
import { chromium } from "playwright-core";
import forms from "@tailwindcss/forms";
import postcss from "postcss";
import tailwind from "tailwindcss";

const [url, task, picture, screenshot, executablePath = "/usr/bin/chromium"] = process.argv.slice(2);
const here = fileURLToPath(new URL(".", import.meta.url));

const ENTRY = `
import { InferenceWidget } from "@huggingface/widgets";
new InferenceWidget({
  target: document.querySelector("main"),
  props: {
    apiUrl: ${JSON.stringify(url)},
    apiToken: "hf_thisMustNeverBeSeen",
    model: { id: "org/resformer", pipeline_tag: "${task}", inference: "Yes", tags: [], widgetData: [] },
    isLoggedIn: true,
  },
});
`;

async function bundle() {
  const { outputFiles } = await build({
    stdin: { contents: ENTRY, resolveDir: here },
    bundle: true,
    format: "esm",
    conditions: ["browser", "import"],
    mainFields: ["browser", "module", "main"],
    write: false,
    logLevel: "error",
  });
  return outputFiles[0].text;
}

// Model pages make the widget's style sheet from the class names it uses; so does this page.
async function styles() {
  const content = [join(here, "node_modules/@huggingface/widgets/dist/client/**/*.js")];
  const sheet = "@tailwind base; @tailwind components; @tailwind utilities;";
  const { css } = await postcss([tailwind({ content, plugins: [forms] })]).process(sheet, { from: undefined });
  return css;
}

function serve(files) {
  const server = createServer((request, response) => {
    const [type, body] = files[request.url] ?? ["text/plain", ""];
    response.writeHead(body ? 200 : 404, { "Content-Type": type }).end(body);
  });
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server)));
}

const PAGE = `<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="/style.css">
<body style="margin: 24px"><main style="max-width: 440px"></main><script type="module" src="/widget.js"></script></body>`;
const server = await serve({
  "/": ["text/html", PAGE],
  "/widget.js": ["text/javascript", await bundle()],
  "/style.css": ["text/css", await styles()],
  "/favicon.ico": ["image/svg+xml", "<svg xmlns='http://www.w3.org/2000/svg'/>"],
});
const profile = await mkdtemp(join(tmpdir(), "widget-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath,
  headless: true,
  viewport: { width: 860, height: 760 },
  args: [
    ...["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"],
    ...["--disable-component-update", "--disable-sync"],
  ],
});
try {
  const page = await context.newPage();
  const problems = [];
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  await page.locator('input[type="file"]').first().setInputFiles(picture);
  await page.getByText(/Computation time|API Implementation Error|not a readable|error/i).first().waitFor();
  await page.waitForTimeout(1000); // the masks fade in
  const shown = await page.evaluate(() => {
    const canvas = [...document.querySelectorAll("canvas")].find((one) => one.clientWidth > 0);
    if (!canvas) return { text: document.body.innerText };
    const { width, height } = canvas;
    const plain = new OffscreenCanvas(width, height).getContext("2d");
    plain.drawImage(canvas.parentElement.querySelector("img"), 0, 0, width, height);
    const [drawn, before] = [canvas.getContext("2d"), plain].map((one) => one.getImageData(0, 0, width, height).data);
    let changed = 0;
    for (let i = 0; i < drawn.length; i += 4) {
      changed += Math.abs(drawn[i] - before[i]) + Math.abs(drawn[i + 1] - before[i + 1]) > 30;
    }
    return { text: document.body.innerText, colouredShare: changed / (width * height) };
  });
  await page.screenshot({ path: screenshot });
  process.stdout.write(JSON.stringify({ ...shown, problems }));
} finally {
  await context.close();
  server.close();
  await rm(profile, { recursive: true, force: true });
}
