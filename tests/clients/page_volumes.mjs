// Whole volumes in the page, in headless Chromium: node page_volumes.mjs URL FOLDER CHROMIUM VOLUME... -> JSON on stdout.
//
// Has all slices of every volume analysed, saves the mask and the answer below FOLDER, and takes page_oct.png and
// page_oct_phone.png of the first. A run through the last is stopped after its first slices, and must tell nothing of the whole; then a damaged file is dropped.
import { basename, join } from "node:path";

import { openedPage } from "./opened_page.mjs";

const [url, folder, executablePath, ...volumes] = process.argv.slice(2);
const opened = await openedPage(url, folder, executablePath);
const { page, problems, status, give, saved } = opened;
try {
  const found = [];
  const all = page.getByRole("button", { name: /^Analyse all/ });
  for (const volume of volumes) {
    await give(volume);
    const asked = performance.now();
    const label = await all.innerText();
    await all.click();
    await status.filter({ hasText: `${basename(volume)}, all ` }).waitFor();
    const took = performance.now() - asked;
    const mask = await saved("Save the volume's mask");
    const answer = await saved("Save the volume's answer");
    found.push({ mask, answer, took, label, told: await status.innerText(), text: await page.locator("#whole").innerText() });
    if (volume === volumes[0]) {
      const [jump] = await page.getByRole("button", { name: /^Show slice/ }).all();
      if (jump) {
        const number = await jump.innerText();
        await jump.click();
        await status.filter({ hasText: `, slice ${number} of` }).waitFor();
        found[0].jumped = Number(number) === Number(await page.getByRole("slider", { name: "Slice" }).inputValue());
      }
      await page.screenshot({ path: join(folder, "page_oct.png"), fullPage: true });
      await page.setViewportSize({ width: 390, height: 844 });
      await page.screenshot({ path: join(folder, "page_oct_phone.png"), fullPage: true });
      found[0].overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      await page.setViewportSize({ width: 1200, height: 1000 });
    }
  }

  await give(volumes.at(-1)); // by which what was told of it is forgotten
  const forgotten = await page.locator("#whole").isHidden();
  await all.click();
  await page.locator("#left").filter({ hasText: /^\d+ of/ }).waitFor();
  const stop = page.getByRole("button", { name: "Stop" });
  await stop.press("Enter");
  await status.filter({ hasText: "stopped after" }).waitFor();
  const stopped = {
    forgotten,
    told: await status.innerText(),
    isFree: await page.getByRole("slider", { name: "Slice" }).isEnabled(),
    isFocused: await all.evaluate((button) => button === document.activeElement),
  };
  await give(volumes.at(-1)); // the worker answers again
  stopped.whole = await page.locator("#whole").isVisible();

  // While another file is looked at, nothing is asked of the volume that is shown: it might be answered from that file.
  await page.evaluate(() => {
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File(["nothing"], "other.mha"));
    document.dispatchEvent(new DragEvent("drop", { dataTransfer }));
    document.getElementById("all-slices").click();
  });
  await status.filter({ hasText: /other\.mha:|, all / }).waitFor();
  stopped.other = await status.innerText();
  process.stdout.write(JSON.stringify({ found, stopped, problems }));
} finally {
  await opened.close();
}
