// The page by keyboard, and as a screen reader has it: node page_access.mjs URL FOLDER CHROMIUM IMAGE VOLUME -> JSON on stdout.
//
// Tells what axe-core finds in every state of the page (loaded, an image answered, a volume, all of its slices, in the dark, on a
// telephone), the names at which Tab stops one after the other and whether each shows that it has the focus, what keys do, and
// roles, names and live regions of Chromium's accessibility tree.
import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { fileURLToPath } from "node:url";

import { openedPage } from "./opened_page.mjs";

const [url, folder, executablePath, image, volume] = process.argv.slice(2);
const axe = await readFile(fileURLToPath(import.meta.resolve("axe-core/axe.min.js")), "utf8");
const opened = await openedPage(url, folder, executablePath);
const { context, page, problems, status, give } = opened;
const TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];

async function violations() {
  await page.evaluate(axe); // by the debugger, which the page's policy does not hold
  return page.evaluate(async (values) => {
    const { violations: found, passes } = await globalThis.axe.run({ runOnly: { type: "tag", values } });
    const told = found.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 120)).join(" | ")}`);
    return { told, passed: passes.length };
  }, TAGS);
}

// What has the focus: its accessible name as the tree has it, and whether a ring is drawn around it or around its label.
async function focused(session) {
  const { node, ring } = await page.evaluate(() => {
    const at = document.activeElement;
    const label = at.closest("label");
    const isDrawn = (one) => one && getComputedStyle(one).outlineStyle !== "none" && parseFloat(getComputedStyle(one).outlineWidth) >= 2;
    return { node: at === document.body ? "body" : at.id || at.textContent, ring: isDrawn(at) || (at.type === "file" && isDrawn(label)) };
  });
  if (node === "body") return null;
  const { result } = await session.send("Runtime.evaluate", { expression: "document.activeElement" });
  const { nodes } = await session.send("Accessibility.getPartialAXTree", { objectId: result.objectId, fetchRelatives: false });
  return { role: nodes[0].role.value, name: nodes[0].name?.value ?? "", ring };
}

async function tabStops(session) {
  await page.evaluate(() => {
    document.body.tabIndex = -1; // so that Tab begins at the top
    document.body.focus();
    document.body.removeAttribute("tabindex");
  });
  const stops = [];
  for (let count = 0; count < 60; count++) {
    await page.keyboard.press("Tab");
    const stop = await focused(session);
    if (!stop) break;
    stops.push(stop);
  }
  return stops;
}

async function tree(session) {
  const { nodes } = await session.send("Accessibility.getFullAXTree");
  return nodes
    .filter(({ ignored, role }) => !ignored && !["StaticText", "InlineTextBox", "none", "generic"].includes(role?.value))
    .map(({ role, name, properties = [] }) => ({
      role: role.value,
      name: name?.value ?? "",
      live: properties.find((one) => one.name === "live")?.value.value,
    }));
}

try {
  const session = await context.newCDPSession(page);
  await session.send("Accessibility.enable");
  const found = { axe: { loaded: await violations() }, stops: { loaded: await tabStops(session) } };

  // An example by Enter, a file by Space, which opens the chooser.
  const examples = page.locator("#examples button");
  const example = examples.first();
  await example.focus();
  await page.keyboard.press("Enter");
  await status.filter({ hasText: /: outlined|: flagged/ }).waitFor();
  found.example = await status.innerText();
  await page.locator("#file").focus();
  const [chooser] = await Promise.all([page.waitForEvent("filechooser"), page.keyboard.press("Space")]);
  await chooser.setFiles(image);
  await status.filter({ hasText: `${basename(image)}:` }).waitFor();
  found.answered = await status.innerText();
  found.axe.answered = await violations();
  found.stops.answered = await tabStops(session);
  found.tree = await tree(session);

  const box = page.getByRole("checkbox").first();
  await box.focus();
  const before = await box.isChecked();
  await page.keyboard.press("Space");
  found.toggled = before && !(await box.isChecked()) && (await box.evaluate((one) => one === document.activeElement));
  await page.keyboard.press("Space");
  const opacity = page.getByRole("slider", { name: "Opacity" });
  await opacity.focus();
  await page.keyboard.press("ArrowRight");
  found.opacity = await opacity.inputValue();
  await page.getByRole("button", { name: "Save the answer" }).focus();
  const [download] = await Promise.all([page.waitForEvent("download"), page.keyboard.press("Enter")]);
  found.download = download.suggestedFilename();

  await give(volume);
  const slider = page.getByRole("slider", { name: "Slice" });
  await slider.focus();
  const first = Number(await slider.inputValue());
  for (const [key, step] of [["ArrowRight", 1], ["ArrowLeft", 0]]) {
    await page.keyboard.press(key);
    await status.filter({ hasText: `, slice ${first + step} of` }).waitFor();
  }
  await page.keyboard.press("Home");
  await status.filter({ hasText: ", slice 1 of" }).waitFor();
  found.valueText = await slider.getAttribute("aria-valuetext");
  found.axe.volume = await violations();
  const all = page.getByRole("button", { name: /^Analyse all/ });
  await all.focus();
  await page.keyboard.press("Enter");
  await page.locator("#left").filter({ hasText: /^\d+ of/ }).waitFor();
  found.axe.running = await violations();
  await status.filter({ hasText: ", all " }).waitFor();
  found.keepsFocus = await all.evaluate((one) => one === document.activeElement);
  await page.locator("summary").focus();
  await page.keyboard.press("Enter");
  found.unfolded = await page.getByRole("region", { name: "Every slice" }).isVisible();
  found.axe.whole = await violations();
  found.stops.whole = await tabStops(session);
  found.wholeTree = await tree(session);
  await page.emulateMedia({ colorScheme: "dark" });
  found.axe.dark = await violations();
  await page.setViewportSize({ width: 390, height: 844 });
  found.axe.phone = await violations();
  process.stdout.write(JSON.stringify({ ...found, problems }));
} finally {
  await opened.close();
}
