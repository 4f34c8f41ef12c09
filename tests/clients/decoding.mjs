// The page's own PNG decoder: node decoding.mjs PNG_JS IMAGE... -> per image its pixels in base64, null where it leaves the
// image to the browser, or a message, as JSON on stdout.
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const [module, ...images] = process.argv.slice(2);
const { decodedPng } = await import(pathToFileURL(module));
const found = [];
for (const image of images) {
  try {
    const decoded = await decodedPng(new Uint8Array(await readFile(image)), () => {});
    found.push(decoded && { ...decoded, pixels: Buffer.from(decoded.pixels).toString("base64") });
  } catch (error) {
    found.push({ message: error.message });
  }
}
process.stdout.write(JSON.stringify(found));
