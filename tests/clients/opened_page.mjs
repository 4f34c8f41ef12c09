// A page in headless Chromium, for the other files here: {context, page, problems, requests, status,
// ready, give, saved, close}, where `ready` are the milliseconds until the model was loaded.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";

import { chromium } from "playwright-core";

export async function openedPage(url, folder, executablePath, flags = ["--disable-gpu"], cores = null) {
  const profile = await mkdtemp(join(tmpdir(), "page-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath,
    headless: true,
    viewport: { width: 1200, height: 1000 },
    acceptDownloads: true,
    args: [
      ...["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"],
      ...["--disable-component-update", "--disable-sync", ...flags],
    ],
  });
  const [problems, requests] = [[], []];
  context.on("request", (request) => requests.push(request.url()));
  // A browser that may use one core alone tells the page so.
  if (cores) await context.addInitScript((count) => Object.defineProperty(navigator, "hardwareConcurrency", { value: count }), cores);
  const page = await context.newPage();
  page.setDefaultTimeout(240_000);
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  const begin = performance.now();
  await page.goto(url);
  const status = page.getByRole("status");
  await status.filter({ hasText: /^Ready|cannot/ }).waitFor();
  const ready = performance.now() - begin;
  return {
    context,
    page,
    problems,
    requests,
    status,
    ready,
    async give(file) {
      await page.locator("#file").setInputFiles(file);
      await status.filter({ hasText: new RegExp(`^${basename(file)}[:,]`) }).waitFor();
    },
    async saved(button) {
      const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: button }).click()]);
      const path = join(folder, download.suggestedFilename());
      await download.saveAs(path);
      return path;
    },
    async close() {
      await context.close();
      await rm(profile, { recursive: true, force: true });
    },
  };
}
