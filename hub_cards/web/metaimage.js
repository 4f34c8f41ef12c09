// MetaImage in one file (.mha) of 8-bit or 16-bit voxels, read and written.
import { packed, unpacked } from "./packing.js";

const TYPES = { MET_UCHAR: 1, MET_USHORT: 2 }; // bytes of a voxel
const NO = ["false", "f", "0"];
// Fields that would change what voxels or lengths mean, and the values that change nothing.
const ONLY = {
  ObjectType: ["image"],
  BinaryData: ["true", "t", "1"],
  BinaryDataByteOrderMSB: NO,
  ElementByteOrderMSB: NO,
  ElementNumberOfChannels: ["1"],
  ElementToIntensityFunctionSlope: ["1", "1.0"],
  ElementToIntensityFunctionOffset: ["0", "0.0"],
  DistanceUnits: ["mm", "?"],
  HeaderSize: ["0"],
};
const ORIGIN = ["Offset", "Position", "Origin"];
const DIRECTION = ["TransformMatrix", "Rotation", "Orientation"];
const NOWHERE = { lengths: [1, 1, 1], origin: [0, 0, 0], direction: [1, 0, 0, 0, 1, 0, 0, 0, 1] }; // what ITK writes if it knows nothing

// {width, height, count, spacing, bytes, voxels, place}, as volumes.js has them; `place` is for `metaImageMask`.
export async function openedMetaImage(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const head = new TextDecoder("latin1").decode(bytes.subarray(0, 65536));
  const end = head.match(/^ElementDataFile *= *LOCAL *\r?\n/m);
  if (!end) throw new Error("no MetaImage that holds its own voxels");
  const begin = end.index + end[0].length;
  const lines = head.slice(0, begin).matchAll(/^(\w+) *= *(.*?) *\r?$/gm);
  const fields = Object.fromEntries([...lines].map(([, name, value]) => [name, value]));
  for (const [name, accepted] of Object.entries(ONLY)) {
    if (name in fields && !accepted.includes(fields[name].toLowerCase())) {
      throw new Error(`${name} is ${fields[name].slice(0, 40)}; expected ${accepted[0]}`);
    }
  }
  const size = TYPES[fields.ElementType];
  if (!size) throw new Error(`${fields.ElementType ?? "no type"}; expected MET_UCHAR or MET_USHORT`);
  const [width, height, count, ...more] = (fields.DimSize ?? "").split(/ +/).map(Number);
  if (more.length) throw new Error("its axes are not three");
  const rest = bytes.subarray(begin);
  const voxels = /^[t1]/i.test(fields.CompressedData ?? "") ? await unpacked(rest, "deflate") : rest;
  return { width, height, count, bytes: size, voxels, ...placeOf(fields) };
}

// {spacing, place}: [slice, row, column] in mm, or null where the file does not say.
function placeOf(fields) {
  // The one is the distance of voxels, the other, which may differ, their size.
  const lengths = ["ElementSpacing", "ElementSize"].find((name) => name in fields);
  const place = {
    lengths: numbers(fields, [lengths], NOWHERE.lengths),
    origin: numbers(fields, ORIGIN, NOWHERE.origin),
    direction: numbers(fields, DIRECTION, NOWHERE.direction),
  };
  if (!place.lengths.every((length) => length > 0)) throw new Error(`${lengths} is not positive`);
  const isKnown = lengths !== undefined && Object.keys(NOWHERE).some((name) => String(place[name]) !== String(NOWHERE[name]));
  return { spacing: isKnown ? place.lengths.toReversed() : null, place };
}

function numbers(fields, names, otherwise) {
  const name = names.find((one) => one in fields);
  if (name === undefined) return otherwise;
  const found = fields[name].split(/ +/).map(Number);
  if (found.length === otherwise.length && found.every(Number.isFinite)) return found;
  throw new Error(`${name} is ${fields[name].slice(0, 40)}; expected ${otherwise.length} numbers`);
}

// 8-bit class indices that lie where their volume lies, compressed; nothing else of its header is repeated.
export async function metaImageMask({ width, height, count, place }, masks) {
  const voxels = await packed([masks], "deflate");
  const head = [
    ["ObjectType", "Image"],
    ["NDims", 3],
    ["BinaryData", "True"],
    ["BinaryDataByteOrderMSB", "False"],
    ["CompressedData", "True"],
    ["CompressedDataSize", voxels.size],
    ["TransformMatrix", place.direction.join(" ")],
    ["Offset", place.origin.join(" ")],
    ["CenterOfRotation", "0 0 0"],
    ["ElementSpacing", place.lengths.join(" ")],
    ["DimSize", `${width} ${height} ${count}`],
    ["ElementType", "MET_UCHAR"],
    ["ElementDataFile", "LOCAL"],
  ];
  return new Blob([head.map(([name, value]) => `${name} = ${value}\n`).join(""), voxels]);
}
