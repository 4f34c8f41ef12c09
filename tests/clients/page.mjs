// The page in headless Chromium: node page.mjs URL FOLDER CHROMIUM IMAGE... -> JSON on stdout.
//
// Gives every image to the page, of a volume the slice after the middle one, saves what it offers for saving as FOLDER/NAME.json and NAME_mask.png, and tells the
// times in milliseconds, all requests and whether each came after the model was loaded. Takes screenshots of the last
// image (wide, without its first class, on a telephone, in the dark), then gives half a file and tells the message.
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";

import { chromium } from "playwright-core";

const [url, folder, executablePath, ...images] = process.argv.slice(2);
const profile = await mkdtemp(join(tmpdir(), "page-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath,
  headless: true,
  viewport: { width: 1200, height: 1000 },
  acceptDownloads: true,
  args: [
    ...["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"],
    ...["--disable-component-update", "--disable-sync"],
  ],
});

const requests = [];
const problems = [];
let isLoaded = false;
context.on("request", (request) => requests.push({ url: request.url(), afterLoading: isLoaded }));

async function saved(page, button) {
  const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: button }).click()]);
  const path = join(folder, download.suggestedFilename());
  await download.saveAs(path);
  return path;
}

try {
  const page = await context.newPage();
  page.setDefaultTimeout(240_000);
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  const status = page.getByRole("status");
  const begin = performance.now();
  await page.goto(url);
  await status.filter({ hasText: "Ready" }).waitFor();
  await page.waitForLoadState("networkidle");
  const ready = performance.now() - begin;
  const readyText = await status.innerText();
  isLoaded = true;

  const answered = [];
  for (const image of images) {
    const asked = performance.now();
    await page.locator("#file").setInputFiles(image);
    await status.filter({ hasText: new RegExp(`^${basename(image)}[:,]`) }).waitFor();
    const slider = page.getByRole("slider", { name: "Slice" });
    if (await slider.isVisible()) {
      const next = Number(await slider.inputValue()) + 1;
      await slider.press("ArrowRight");
      await status.filter({ hasText: `, slice ${next} of` }).waitFor();
      await page.screenshot({ path: join(folder, "page_volume.png"), fullPage: true });
    }
    const took = performance.now() - asked;
    const report = await saved(page, "Save the answer");
    const mask = await saved(page, "Save the mask");
    answered.push({ report, mask, took });
  }
  const text = await page.locator("body").innerText();

  const colours = () =>
    page.locator("#canvas").evaluate((canvas) => {
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return data.reduce((sum, value) => sum + value, 0);
    });
  const shots = { wide: join(folder, "page_wide.png"), phone: join(folder, "page_phone.png"), dark: join(folder, "page_dark.png") };
  const drawn = [await colours()];
  await page.screenshot({ path: shots.wide, fullPage: true });
  const box = page.getByRole("checkbox").first();
  await box.focus();
  await page.keyboard.press("Space");
  drawn.push(await colours());
  await page.keyboard.press("Space");
  const opacity = page.getByRole("slider", { name: "Opacity" });
  await opacity.fill("100");
  drawn.push(await colours());
  await opacity.fill("25");
  await page.setViewportSize({ width: 390, height: 844 });
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  await page.screenshot({ path: shots.phone, fullPage: true });
  await page.emulateMedia({ colorScheme: "dark" });
  await page.screenshot({ path: shots.dark, fullPage: true });

  const half = join(profile, "half.png");
  const bytes = await readFile(images.at(-1));
  await writeFile(half, bytes.subarray(0, bytes.length / 2));
  await page.locator("#file").setInputFiles(half);
  await status.filter({ hasText: "half.png:" }).waitFor();
  const message = await status.innerText();

  // The policy holds in the page and in its worker: neither reaches another address, not even one on this machine.
  const elsewhere = new URL(url);
  elsewhere.port = "9";
  const tries = await Promise.all([
    page.evaluate((address) => fetch(address).then(() => "reached", (error) => String(error)), elsewhere.href),
    ...page.workers().map((worker) =>
      worker.evaluate((address) => fetch(address).then(() => "reached", (error) => String(error)), elsewhere.href),
    ),
  ]);
  const refused = problems.filter((problem) => problem.includes("Content Security Policy"));
  const others = problems.filter((problem) => !refused.includes(problem));
  process.stdout.write(
    JSON.stringify({ ready, readyText, answered, text, drawn, overflow, message, tries, refused, problems: others, requests }),
  );
} finally {
  await context.close();
  await rm(profile, { recursive: true, force: true });
}
