// What the model's outputs mean, by the names, limits and thresholds of its file. Without the page, and under Node too.

export function pixelsByClass(mask, count) {
  const pixels = new Array(count).fill(0);
  for (const index of mask) pixels[index]++;
  return pixels;
}

export function scoresOf({ class_scores: found, predicted_classes: predicted }, metadata) {
  const { image_classes: names = [], thresholds, label_set_thresholds: lowest } = metadata;
  return names.map((name, i) => ({
    name,
    score: found[i],
    threshold: thresholds ? thresholds[i] : null,
    predicted: Boolean(predicted[i]),
    ...(lowest ? { in_label_set: found[i] >= lowest[i] } : {}),
  }));
}

// Of an image of `size` pixels, each `pixelArea` mm² large, 0 where that is unknown.
export function areasOf(pixels, { mean_probability: mean }, size, pixelArea, { mask_classes: names = [] }) {
  return names.map((name, i) => ({
    name,
    pixels: pixels[i],
    share: pixels[i] / size,
    mm2: pixelArea ? pixels[i] * pixelArea : null,
    mean_probability: mean?.[i],
  }));
}

// As ResFormerConfig.trust has it; null where the model tells none of it.
export function trustOf(outputs, { distance_limit, confidence_limit, doubts = {} }) {
  const [distance] = outputs.distance ?? [];
  const [confidence] = outputs.confidence ?? [];
  if (distance === undefined) return null;
  const crossed = {
    unlike_training_images: typeof distance_limit === "number" && distance > distance_limit,
    low_confidence: confidence !== undefined && typeof confidence_limit === "number" && confidence < confidence_limit,
  };
  const flags = Object.keys(doubts).filter((flag) => crossed[flag]);
  const share = confidence === undefined ? "" : `${Math.round(100 * confidence)} %`;
  return { distance, confidence, flags, doubt: flags.length ? doubts[flags[0]].replace("{share}", share) : "" };
}

// A whole volume, by the rules and under the names of predict.py's volumes.csv: a class has its highest score of all slices, and
// is there if any slice has it; a slice counts as thick as the distance to the next. Slices are counted from 0.
//
// `slices` are {outputs, pixels} in their order; `spacing` is [slice, row, column] in mm or null.
export function wholeVolume({ slices, width, height, spacing }, metadata) {
  const [sliceMm, rowMm, columnMm] = spacing ?? [null, null, null];
  const scores = slices.map(({ outputs }) => scoresOf(outputs, metadata));
  return {
    slices: slices.length,
    height,
    width,
    spacing_slice_mm: sliceMm,
    spacing_row_mm: rowMm,
    spacing_column_mm: columnMm,
    class_scores: (metadata.image_classes ?? []).map((name, i) => {
      const labelled = scores.filter((one) => one[i].predicted).length;
      const highest = scores.reduce((most, one) => Math.max(most, one[i].score), -Infinity);
      const { threshold } = scores[0][i];
      return { name, highest_score: highest, threshold, predicted: labelled > 0, slices_labelled: labelled };
    }),
    mask_classes: (metadata.mask_classes ?? []).slice(1).map((name, i) => {
      return { name, ...extent(slices.map(({ pixels }) => pixels[i + 1]), spacing) };
    }),
    ...wholeTrust(slices.map(({ outputs }) => trustOf(outputs, metadata))),
  };
}

// One class of which slices have so many pixels.
function extent(pixels, spacing) {
  const voxels = pixels.reduce((sum, count) => sum + count, 0);
  const most = pixels.reduce((highest, count) => Math.max(highest, count), 0);
  return {
    voxels,
    volume_mm3: spacing ? voxels * spacing[0] * spacing[1] * spacing[2] : null,
    slices_affected: pixels.filter(Boolean).length,
    largest_slice: voxels ? pixels.indexOf(most) : null,
    largest_area_pixels: most,
    largest_area_mm2: spacing ? most * spacing[1] * spacing[2] : null,
  };
}

// All flags, the lowest confidence, and the doubt of the slice that has most of it.
function wholeTrust(found) {
  if (!found.some(Boolean)) return {};
  const confidences = found.map((one) => one.confidence).filter((one) => one !== undefined);
  const doubtful = found.map((one, slice) => ({ ...one, slice })).filter(({ doubt }) => doubt);
  const [worst] = doubtful.sort((one, other) => (one.confidence ?? 0) - (other.confidence ?? 0));
  return {
    flags: [...new Set(found.flatMap(({ flags }) => flags))],
    confidence: confidences.length ? confidences.reduce((least, one) => Math.min(least, one)) : undefined,
    doubt: worst ? `Slice ${worst.slice + 1}: ${worst.doubt}` : "",
  };
}
