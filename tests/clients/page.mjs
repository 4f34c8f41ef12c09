// The page in headless Chromium: node page.mjs URL FOLDER CHROMIUM IMAGE... -> JSON on stdout.
//
// Gives every image to the page, of a volume the slice after the middle one, saves what it offers for saving as FOLDER/NAME.json and NAME_mask.png, and tells the
// times in milliseconds, all requests and whether each came after the model was loaded. Takes screenshots of the last
// image (wide, without its first class, on a telephone, in the dark), drops and pastes it, then gives half a file and tells the
// message.
import { readFile, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";

import { openedPage } from "./opened_page.mjs";

const [url, folder, executablePath, ...images] = process.argv.slice(2);
const opened = await openedPage(url, folder, executablePath);
const { page, problems, requests, status, ready, give, saved } = opened;
try {
  await page.waitForLoadState("networkidle");
  const readyText = await status.innerText();
  const whileLoading = requests.length;

  const answered = [];
  for (const image of images) {
    const asked = performance.now();
    await give(image);
    const slider = page.getByRole("slider", { name: "Slice" });
    if (await slider.isVisible()) {
      const next = Number(await slider.inputValue()) + 1;
      await slider.press("ArrowRight");
      await status.filter({ hasText: `, slice ${next} of` }).waitFor();
      await page.screenshot({ path: join(folder, "page_volume.png"), fullPage: true });
    }
    const took = performance.now() - asked;
    const report = await saved("Save the answer");
    const mask = await saved("Save the mask");
    answered.push({ report, mask, took });
  }
  const handed = [];
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

  // The last image by the two other ways: each time as a file of another name, which the status then begins with.
  const content = (await readFile(images.at(-1))).toString("base64");
  for (const way of ["drop", "paste"]) {
    const name = `${way}_${basename(images.at(-1))}`;
    await page.evaluate(
      ([way, name, content]) => {
        const files = new DataTransfer();
        files.items.add(new File([Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0))], name));
        const event =
          way === "drop" ? new DragEvent(way, { dataTransfer: files }) : new ClipboardEvent(way, { clipboardData: files });
        document.dispatchEvent(event);
      },
      [way, name, content],
    );
    await status.filter({ hasText: new RegExp(`^${name}[:,]`) }).waitFor();
    handed.push(await saved("Save the answer"));
  }

  const half = join(folder, "half.png");
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
  const asked = requests.map((url, i) => ({ url, afterLoading: i >= whileLoading }));
  process.stdout.write(
    JSON.stringify({ ready, readyText, answered, handed, text, drawn, overflow, message, tries, refused, problems: others, requests: asked }),
  );
} finally {
  await opened.close();
}
