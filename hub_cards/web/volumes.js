// MetaImage in one file (.mha) and NIfTI-1 (.nii, .nii.gz) of 8-bit or 16-bit voxels, in the order in which they are stored:
// columns fastest, slices slowest, nothing turned.

const MOST_BYTES = 2 ** 29;
const NIFTI_TYPES = { 2: 1, 512: 2 }; // bytes of a voxel
const METAIMAGE_TYPES = { MET_UCHAR: 1, MET_USHORT: 2 };
const MILLIMETRES = 2;

export function isVolume(name) {
  return /\.(mha|nii|nii\.gz)$/i.test(name);
}

// {width, height, count, spacing, bytes, voxels}: spacing is [row, column] in mm or null, `bytes` those of one voxel.
export async function openedVolume(file, checkSize) {
  const volume = /\.mha$/i.test(file.name) ? await metaImage(file) : await nifti(file);
  const { width, height, count, bytes, voxels } = volume;
  if (![width, height, count].every((side) => Number.isInteger(side) && side > 0)) throw new Error("its axes are not three");
  checkSize(width, height);
  if (voxels.length < width * height * count * bytes) throw new Error("the file is cut short");
  return volume;
}

// One slice as (height, width, 3) 8-bit; 16-bit voxels are divided by 257, as 16-bit PNG is.
export function sliceOf({ width, height, bytes, voxels }, index) {
  const pixels = new Uint8Array(width * height * 3);
  for (let i = 0, at = index * width * height * bytes; i < width * height; i++, at += bytes) {
    const value = bytes === 1 ? voxels[at] : Math.round((voxels[at] + 256 * voxels[at + 1]) / 257);
    pixels.fill(value, 3 * i, 3 * i + 3);
  }
  return { width, height, pixels };
}

async function metaImage(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const head = new TextDecoder("latin1").decode(bytes.subarray(0, 65536));
  const end = head.match(/^ElementDataFile *= *LOCAL *\r?\n/m);
  if (!end) throw new Error("no MetaImage that holds its own voxels");
  const begin = end.index + end[0].length;
  const fields = Object.fromEntries([...head.slice(0, begin).matchAll(/^(\w+) *= *(.*?) *\r?$/gm)].map(([, name, value]) => [name, value]));
  const isTrue = (name) => /^(true|t|1)$/i.test(fields[name] ?? "");
  const size = METAIMAGE_TYPES[fields.ElementType];
  const [channels, headerSize] = [fields.ElementNumberOfChannels ?? "1", fields.HeaderSize ?? "0"];
  if (!size || channels !== "1" || headerSize !== "0" || isTrue("BinaryDataByteOrderMSB") || isTrue("ElementByteOrderMSB")) {
    throw new Error(`${fields.ElementType ?? "no type"}; expected MET_UCHAR or MET_USHORT, one channel, little-endian`);
  }
  const numbers = (name) => (fields[name] ?? "").split(/ +/).map(Number);
  const [width, height, count, ...more] = numbers("DimSize");
  if (more.length) throw new Error("its axes are not three");
  const [x, y] = numbers("ElementSpacing");
  const spacing = x > 0 && y > 0 ? [y, x] : null;
  const rest = bytes.subarray(begin);
  const voxels = isTrue("CompressedData") ? await unpacked(rest, "deflate") : rest;
  return { width, height, count, spacing, bytes: size, voxels };
}

async function nifti(file) {
  let bytes = new Uint8Array(await file.arrayBuffer());
  if (bytes[0] === 0x1f && bytes[1] === 0x8b) bytes = await unpacked(bytes, "gzip");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 352 || view.getInt32(0, true) !== 348 || view.getUint32(344, false) !== 0x6e2b3100) {
    throw new Error("no little-endian NIfTI-1 file");
  }
  const short = (at) => view.getInt16(at, true);
  const float = (at) => view.getFloat32(at, true);
  const axes = short(40);
  for (let axis = 4; axis <= axes; axis++) if (short(40 + 2 * axis) !== 1) throw new Error("its axes are not three");
  const size = NIFTI_TYPES[short(70)];
  const [slope, intercept] = [float(112), float(116)];
  if (axes < 3 || !size || (slope !== 0 && (slope !== 1 || intercept !== 0))) {
    throw new Error(`${axes} axes of data type ${short(70)}; expected three of 8-bit or 16-bit voxels without a slope`);
  }
  const [x, y] = [float(80), float(84)];
  const spacing = (view.getUint8(123) & 7) === MILLIMETRES && x > 0 && y > 0 ? [y, x] : null;
  return { width: short(42), height: short(44), count: short(46), spacing, bytes: size, voxels: bytes.subarray(float(108)) };
}

async function unpacked(bytes, format) {
  const parts = [];
  let length = 0;
  const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream(format)).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      length += value.length;
      if (length > MOST_BYTES) break;
      parts.push(value);
    }
  } catch {
    throw new Error("the file is damaged");
  }
  if (length > MOST_BYTES) {
    reader.cancel().catch(() => {});
    throw new Error(`more than ${MOST_BYTES / 2 ** 20} MiB of voxels; crop the volume first`);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}
