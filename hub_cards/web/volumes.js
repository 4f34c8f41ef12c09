// Volumes of 8-bit or 16-bit voxels, in the order in which they are stored: columns fastest, slices slowest, nothing turned.
import { metaImageMask, openedMetaImage } from "./metaimage.js";
import { niftiMask, openedNifti } from "./nifti.js";

const ENDING = /\.(mha|nii|nii\.gz)$/i;

export function isVolume(name) {
  return ENDING.test(name);
}

// {ending, width, height, count, spacing, bytes, voxels, place}: spacing is [slice, row, column] in mm or null, `bytes` those
// of one voxel, `place` where the voxels lie, as their file says it.
export async function openedVolume(file, checkSize) {
  const ending = file.name.match(ENDING)[0].toLowerCase();
  const volume = await (ending === ".mha" ? openedMetaImage(file) : openedNifti(file));
  const { width, height, count, bytes, voxels } = volume;
  if (![width, height, count].every((side) => Number.isInteger(side) && side > 0)) throw new Error("its axes are not three");
  checkSize(width, height);
  if (voxels.length < width * height * count * bytes) throw new Error("the file is cut short");
  return { ending, ...volume };
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

// Class indices (slices, height, width) as a Blob of the volume's own format and place.
export function maskFile(volume, masks) {
  return volume.ending === ".mha" ? metaImageMask(volume, masks) : niftiMask(volume, masks);
}
