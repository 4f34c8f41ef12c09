// NIfTI-1 in one file (.nii, .nii.gz) of 8-bit or 16-bit voxels, read and written. Offsets are those of the standard.
import { packed, unpacked } from "./packing.js";

const TYPES = { 2: 1, 512: 2 }; // bytes of a voxel
const HEAD = 352;
const MAGIC = 0x6e2b3100;
const MILLIMETRES = { 1: 1000, 2: 1, 3: 0.001 }; // of a metre, a millimetre, a micrometre
const ROUNDING = 1e-2; // by which files round
const PLACE = [[40, 56], [76, 108], [123, 124], [252, 328]]; // sizes, lengths, their unit, qform and sform

// {width, height, count, spacing, bytes, voxels, place}, as volumes.js has them; `place` is for `niftiMask`.
export async function openedNifti(file) {
  let bytes = new Uint8Array(await file.arrayBuffer());
  const isPacked = bytes[0] === 0x1f && bytes[1] === 0x8b;
  if (isPacked) bytes = await unpacked(bytes, "gzip");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < HEAD || view.getInt32(0, true) !== 348 || view.getUint32(344, false) !== MAGIC) {
    throw new Error("no little-endian NIfTI-1 file");
  }
  const short = (at) => view.getInt16(at, true);
  const float = (at) => view.getFloat32(at, true);
  const axes = short(40);
  for (let axis = 4; axis <= axes; axis++) if (short(40 + 2 * axis) !== 1) throw new Error("its axes are not three");
  const size = TYPES[short(70)];
  const [slope, intercept] = [float(112), float(116)];
  if (axes < 3 || !size || (slope === 0 ? intercept !== 0 : slope !== 1 || intercept !== 0)) {
    throw new Error(`${axes} axes of data type ${short(70)}; expected three of 8-bit or 16-bit voxels without a slope`);
  }
  const offset = float(108);
  if (!(offset >= HEAD)) throw new Error(`vox_offset is ${offset}; expected ${HEAD} or more`);
  return {
    width: short(42),
    height: short(44),
    count: short(46),
    spacing: spacingOf(view, short, float),
    bytes: size,
    voxels: bytes.subarray(offset),
    place: { head: bytes.slice(0, HEAD), isPacked },
  };
}

// [slice, row, column] in mm; null where the file does not say, or says it in two ways.
function spacingOf(view, short, float) {
  const unit = MILLIMETRES[view.getUint8(123) & 7];
  const lengths = [80, 84, 88].map(float);
  if (!unit || !lengths.every((length) => length > 0 && length < Infinity)) return null;
  const isTurned = short(254) > 0; // by the sform, whose columns are the axes
  const rows = [280, 296, 312].map((row) => [0, 4, 8, 12].map((at) => float(row + at)));
  const byForm = [0, 1, 2].map((axis) => Math.hypot(...rows.map((row) => row[axis])));
  if (isTurned && byForm.some((length, axis) => Math.abs(length - lengths[axis]) > ROUNDING * lengths[axis])) return null;
  const origin = isTurned ? rows.map((row) => row[3]) : [268, 272, 276].map(float);
  const isPlain = !isTurned || rows.every((row, i) => row.every((value, axis) => i === axis || value === 0));
  // A box of 1 mm at the origin is what ITK writes if it knows nothing.
  if (unit === 1 && isPlain && lengths.every((one) => one === 1) && origin.every((one) => one === 0)) return null;
  return lengths.map((length) => shortest(length * unit)).toReversed();
}

// The file holds 32-bit floats: 0.0039 comes back as 0.0038999999.
function shortest(value) {
  const single = Math.fround(value);
  const digits = [6, 7, 8, 9].find((count) => Math.fround(single.toPrecision(count)) === single);
  return Number(single.toPrecision(digits));
}

// 8-bit class indices that lie where their volume lies; nothing else of its header is repeated.
export async function niftiMask({ place }, masks) {
  const head = new Uint8Array(HEAD);
  const view = new DataView(head.buffer);
  for (const [begin, end] of PLACE) head.set(place.head.subarray(begin, end), begin);
  view.setInt32(0, 348, true);
  view.setInt16(70, 2, true); // 8-bit
  view.setInt16(72, 8, true);
  view.setFloat32(108, HEAD, true);
  view.setFloat32(112, 1, true); // the slope
  view.setUint32(344, MAGIC, false);
  return place.isPacked ? packed([head, masks], "gzip") : new Blob([head, masks]);
}
