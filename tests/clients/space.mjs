// The Space in headless Chromium: node space.mjs URL PICTURE CLASS FOLDER [CHROMIUM] -> JSON on stdout.
//
// Uploads a picture, takes screenshots (as it comes, CLASS switched off, filled opaquely) and tells what it read; then
// uploads a damaged one (its first half) and tells the message.
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { chromium } from "playwright-core";

const [url, picture, className, folder, executablePath = "/usr/bin/chromium"] = process.argv.slice(2);
const profile = await mkdtemp(join(tmpdir(), "space-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath,
  headless: true,
  viewport: { width: 1200, height: 1150 },
  args: [
    ...["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"],
    ...["--disable-component-update", "--disable-sync"],
  ],
});

// Mean colour of what is drawn, as the browser has it.
async function colour(page, before) {
  const image = page.locator('[data-testid="detailed-image"], .image-frame img').last();
  await page.waitForFunction(
    (last) => {
      const all = [...document.querySelectorAll(".image-frame img, [data-testid='detailed-image']")];
      return all.length > 1 && all.at(-1).complete && all.at(-1).src !== last;
    },
    before,
  );
  return image.evaluate((one) => {
    const canvas = new OffscreenCanvas(one.naturalWidth, one.naturalHeight).getContext("2d");
    canvas.drawImage(one, 0, 0);
    const { data } = canvas.getImageData(0, 0, one.naturalWidth, one.naturalHeight);
    const sums = [0, 0, 0];
    for (let i = 0; i < data.length; i++) if (i % 4 < 3) sums[i % 4] += data[i];
    return { src: one.src, mean: sums.map((sum) => sum / (data.length / 4)) };
  });
}

const failed = [];
try {
  const page = await context.newPage();
  page.setDefaultTimeout(60_000);
  page.on("pageerror", (error) => failed.push(String(error)));
  page.on("request", (request) => {
    const { host, protocol } = new URL(request.url());
    if (protocol.startsWith("http") && host !== new URL(url).host) failed.push(`asked a third party: ${host}`);
  });
  await page.goto(url);
  await page.locator('input[type="file"]').first().setInputFiles(picture);
  await page.getByText("decision threshold").waitFor();
  const asItComes = await colour(page, "");
  await page.waitForTimeout(1500);
  await page.screenshot({ path: join(folder, "space.png") });
  const text = await page.locator("body").innerText();

  await page.getByRole("checkbox", { name: className, exact: true }).uncheck();
  const without = await colour(page, asItComes.src);
  await page.waitForTimeout(500);
  await page.screenshot({ path: join(folder, "space_without.png") });

  await page.getByRole("checkbox", { name: className, exact: true }).check();
  await colour(page, without.src);
  const slider = page.getByRole("spinbutton").first();
  await slider.fill("1");
  await slider.press("Enter");
  await page.waitForTimeout(1500);
  const opaque = await colour(page, "");
  await page.screenshot({ path: join(folder, "space_opaque.png") });

  const bytes = await readFile(picture);
  const damaged = join(profile, "damaged.png");
  await writeFile(damaged, bytes.subarray(0, bytes.length / 2));
  await page.getByRole("button", { name: /clear|remove/i }).first().click();
  await page.locator('input[type="file"]').first().setInputFiles(damaged);
  const toast = page.locator(".toast-body").first();
  await toast.waitFor();
  const message = await toast.innerText();
  await page.screenshot({ path: join(folder, "space_damaged.png") });
  process.stdout.write(JSON.stringify({ text, message, asItComes: asItComes.mean, without: without.mean, opaque: opaque.mean, failed }));
} finally {
  await context.close();
  await rm(profile, { recursive: true, force: true });
}
