// Files to 8-bit RGB, as Pillow has them: PNG exactly, what else the browser decodes as closely as it does.
import { decodedPng, isPng } from "./png.js";

const MOST_PIXELS = 25e6; // the mask's probabilities take 4 bytes a pixel and class, several times

export function checkSize(width, height) {
  if (width * height > MOST_PIXELS) {
    throw new Error(`${width} x ${height} pixels are more than ${MOST_PIXELS / 1e6} million; make the image smaller first`);
  }
}

// {width, height, pixels}: (height, width, 3) as a Uint8Array.
export async function decoded(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const png = isPng(bytes) ? await decodedPng(bytes, checkSize) : null;
  return png ?? (await decodedByBrowser(file));
}

// Turned by its EXIF orientation. JPEG's colours differ by a step or two from those of another decoder.
async function decodedByBrowser(file) {
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "from-image" };
  const bitmap = await createImageBitmap(file, options).catch(() => {
    throw new Error("this browser cannot read the file as an image; expected PNG or JPEG");
  });
  const { width, height } = bitmap;
  checkSize(width, height);
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const pixels = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; to < pixels.length; from += 4, to += 3) {
    pixels[to] = data[from];
    pixels[to + 1] = data[from + 1];
    pixels[to + 2] = data[from + 2];
  }
  return { width, height, pixels };
}
