// PNG read and written as stored: no colour profile, no gamma, no product with alpha, which a canvas would bring in.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const CHANNELS = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 }; // of colour types

export function isPng(bytes) {
  return SIGNATURE.every((value, i) => bytes[i] === value);
}

// {width, height, pixels} as 8-bit RGB without alpha; null for what is left to the browser: interlaced or turned by EXIF.
// 16-bit grey is divided by 257, 16-bit colours keep their upper byte, as in Pillow.
export async function decodedPng(bytes, checkSize) {
  const { header, palette, data, turned } = chunksOf(bytes);
  const [width, height] = [header.getUint32(0), header.getUint32(4)];
  const [depth, colour, interlaced] = [header.getUint8(8), header.getUint8(9), header.getUint8(12)];
  checkSize(width, height);
  if (interlaced || turned) return null;
  const channels = CHANNELS[colour];
  if (!channels || ![1, 2, 4, 8, 16].includes(depth) || (colour === 3 && !palette)) throw damaged();
  const line = Math.ceil((width * channels * depth) / 8);
  const lines = await through(new Blob(data).stream(), new DecompressionStream("deflate"), (line + 1) * height);
  const step = Math.max(1, (channels * depth) >> 3);
  unfilter(lines, line, height, step);

  const pixels = new Uint8Array(width * height * 3);
  const grey = colour === 0 || colour === 4;
  const scale = colour === 0 && depth < 8 ? 255 / (2 ** depth - 1) : 1;
  for (let y = 0, to = 0; y < height; y++) {
    const row = y * (line + 1) + 1;
    const sample = (i) => {
      if (depth === 8) return lines[row + i];
      if (depth < 8) return (lines[row + ((i * depth) >> 3)] >> (8 - depth - ((i * depth) & 7))) & (2 ** depth - 1);
      return colour === 0 ? Math.round((lines[row + 2 * i] * 256 + lines[row + 2 * i + 1]) / 257) : lines[row + 2 * i];
    };
    for (let x = 0; x < width; x++, to += 3) {
      const value = sample(x * channels);
      if (palette) {
        pixels.set(palette.subarray(3 * value, 3 * value + 3), to);
      } else if (grey) {
        pixels.fill(value * scale, to, to + 3);
      } else {
        pixels[to] = value;
        pixels[to + 1] = sample(x * channels + 1);
        pixels[to + 2] = sample(x * channels + 2);
      }
    }
  }
  return { width, height, pixels };
}

// Class indices as an 8-bit palette image; `colours` of all classes, background first, [red, green, blue] each.
export async function encodedMask(mask, width, height, colours) {
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8);
  header.setUint8(9, 3);
  const lines = new Uint8Array((width + 1) * height);
  for (let y = 0; y < height; y++) lines.set(mask.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const packed = await new Response(new Blob([lines]).stream().pipeThrough(new CompressionStream("deflate"))).arrayBuffer();
  return new Blob(
    [
      new Uint8Array(SIGNATURE),
      chunk("IHDR", new Uint8Array(header.buffer)),
      chunk("PLTE", new Uint8Array(colours.flat())),
      chunk("IDAT", new Uint8Array(packed)),
      chunk("IEND", new Uint8Array()),
    ],
    { type: "image/png" },
  );
}

function damaged() {
  return new Error("the PNG file is damaged");
}

function chunksOf(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const found = { header: null, palette: null, data: [], turned: false };
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const body = bytes.subarray(at + 8, at + 8 + length);
    if (body.length < length) throw damaged();
    if (kind === "IHDR") found.header = new DataView(body.buffer, body.byteOffset, length);
    if (kind === "PLTE") found.palette = body;
    if (kind === "IDAT") found.data.push(body);
    if (kind === "eXIf") found.turned = true;
    if (kind === "IEND") break;
    at += 12 + length;
  }
  if (found.header?.byteLength !== 13 || !found.data.length) throw damaged();
  if (found.header.getUint8(9) !== 3) found.palette = null; // of true colour it is only a proposal
  return found;
}

// The first `length` bytes of an unpacked stream.
async function through(stream, unpacking, length) {
  const bytes = new Uint8Array(length);
  const reader = stream.pipeThrough(unpacking).getReader();
  let at = 0;
  try {
    while (at < length) {
      const { done, value } = await reader.read();
      if (done) break;
      bytes.set(value.subarray(0, length - at), at);
      at += value.length;
    }
  } catch {
    throw damaged();
  }
  reader.cancel().catch(() => {});
  if (at < length) throw damaged();
  return bytes;
}

// Undoes the five filters of lines in place; each line has its filter's number before it.
function unfilter(bytes, line, height, step) {
  for (let y = 0; y < height; y++) {
    const row = y * (line + 1) + 1;
    const filter = bytes[row - 1];
    if (filter > 4) throw damaged();
    for (let i = 0; filter && i < line; i++) {
      const left = i >= step ? bytes[row + i - step] : 0;
      const above = y ? bytes[row + i - line - 1] : 0;
      const corner = y && i >= step ? bytes[row + i - line - 1 - step] : 0;
      bytes[row + i] += [0, left, above, (left + above) >> 1, filter === 4 ? paeth(left, above, corner) : 0][filter];
    }
  }
}

function paeth(left, above, corner) {
  const [a, b, c] = [Math.abs(above - corner), Math.abs(left - corner), Math.abs(left + above - 2 * corner)];
  return a <= b && a <= c ? left : b <= c ? above : corner;
}

function chunk(kind, body) {
  const whole = new Uint8Array(12 + body.length);
  const view = new DataView(whole.buffer);
  view.setUint32(0, body.length);
  whole.set([...kind].map((letter) => letter.charCodeAt(0)), 4);
  whole.set(body, 8);
  view.setUint32(8 + body.length, crc(whole.subarray(4, 8 + body.length)));
  return whole;
}

function crc(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) {
    value ^= byte;
    for (let bit = 0; bit < 8; bit++) value = (value >>> 1) ^ (value & 1 ? 0xedb88320 : 0);
  }
  return ~value >>> 0;
}
