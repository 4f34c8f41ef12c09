// All slices of a volume: how far they are done, what was found in them, what can be saved.
import { areasOf, scoresOf, trustOf, wholeVolume } from "./measuring.js";
import { breakable, columnHead, element, figure, measure, row, save, saveJson } from "./parts.js";

let whole; // what is shown: {facts, found, about, stem}

// Where a run stands; null after its end. `count` is the number of slices.
export function showRun(run, count) {
  element("all-slices").textContent = run ? "Stop" : `Analyse all ${count} slices`;
  element("slice").disabled = Boolean(run);
  element("running").hidden = !run;
  if (!run) return;
  element("slices-done").value = run.done / count;
  const seconds = (run.milliseconds / 1000 / run.done) * (count - run.done);
  element("left").textContent = run.done ? `${run.done} of ${count}, ${Math.ceil(seconds)} s left` : "";
}

export function forgetWhole() {
  whole = null;
  element("whole").hidden = true;
}

// `found` is the worker's answer, `about` the head of what is saved, `goTo` a function that shows a slice, counted from 0.
export function showWhole(found, metadata, { about, stem, goTo }) {
  const facts = wholeVolume(found, metadata);
  whole = { facts, found, metadata, about, stem };
  element("whole").hidden = false;
  element("whole-doubt").hidden = !facts.doubt;
  element("whole-doubt").textContent = facts.doubt ?? "";
  showScores(facts, Boolean(metadata.thresholds));
  showVolumes(facts, goTo);
  showSlices(found, metadata);
  const time = `${facts.slices} slices in ${(found.milliseconds / 1000).toFixed(1)} s.`;
  const unknown = "The file states no spacing of its own: no mm³.";
  element("whole-note").textContent = facts.mask_classes.length && !found.spacing ? `${time} ${unknown}` : time;
  element("save-volume").hidden = !found.mask;
  element("save-volume").textContent = `Save the volume's mask (${found.ending})`;
  return told(facts, Boolean(metadata.thresholds));
}

function told({ slices, class_scores: scores, mask_classes: masks }, hasThresholds) {
  const outlined = masks
    .filter(({ voxels }) => voxels)
    .map((one) => `${one.name} ${one.volume_mm3 === null ? `${one.voxels} voxels` : `${measure(one.volume_mm3)} mm³`}`);
  const flagged = scores
    .filter(({ predicted }) => predicted)
    .map((one) => `${one.name} in ${one.slices_labelled} of ${slices} slices`);
  const parts = [];
  if (masks.length) parts.push(`outlined: ${outlined.join(", ") || "nothing"}`);
  if (scores.length) parts.push(`${hasThresholds ? "flagged" : "highest"}: ${flagged.join(", ") || "nothing"}`);
  return parts.join("; ");
}

function showScores({ slices, class_scores: scores }, hasThresholds) {
  const [reached, missed] = hasThresholds ? ["flagged", "below"] : ["highest", ""];
  element("whole-scores").hidden = !scores.length;
  element("whole-scores").caption.textContent = `Scores over all ${slices} slices`;
  element("whole-rule").textContent = hasThresholds ? "Threshold" : "";
  const lines = scores.map((one) => {
    const { name, highest_score: highest, threshold, predicted, slices_labelled: labelled } = one;
    const rule = threshold === null ? "" : figure(threshold);
    const line = row(breakable(name), figure(highest), rule, predicted ? reached : missed, String(labelled));
    line.classList.toggle("flagged", predicted);
    return line;
  });
  element("whole-scores").tBodies[0].replaceChildren(...lines);
}

function showVolumes({ slices, mask_classes: masks }, goTo) {
  element("whole-masks").hidden = !masks.length;
  element("whole-masks").caption.textContent = `What was outlined in all ${slices} slices`;
  const lines = masks.map((one) => {
    const largest = one.largest_slice === null ? "–" : sliceButton(one.largest_slice, one.name, goTo);
    return row(breakable(one.name), measure(one.volume_mm3), String(one.voxels), String(one.slices_affected), largest);
  });
  element("whole-masks").tBodies[0].replaceChildren(...lines);
}

function sliceButton(index, name, goTo) {
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: index + 1 });
  button.className = "go";
  button.ariaLabel = `Show slice ${index + 1}, where ${name} is largest`;
  button.addEventListener("click", () => goTo(index));
  return button;
}

function showSlices({ slices }, { image_classes: scored = [], mask_classes: outlined = [], ...metadata }) {
  const table = element("by-slice");
  const heads = [...scored.map((name) => [name, "score"]), ...outlined.slice(1).map((name) => [name, "pixels"])];
  table.tHead.rows[0].replaceChildren(
    columnHead("Slice"),
    ...heads.map(([name, what]) => {
      const head = breakable(name);
      head.append(` ${what}`);
      return columnHead(head);
    }),
  );
  const lines = slices.map(({ outputs, pixels }, index) => {
    const scores = scoresOf(outputs, { ...metadata, image_classes: scored });
    const line = row(String(index + 1), ...scores.map(({ score }) => figure(score)), ...(pixels ?? []).slice(1).map(String));
    scores.forEach(({ predicted }, i) => line.children[i + 1].classList.toggle("flagged", predicted));
    return line;
  });
  table.tBodies[0].replaceChildren(...lines);
}

export function saveVolume() {
  save(whole.found.mask, `${whole.stem}_mask${whole.found.ending}`);
}

export function saveWhole() {
  const { facts, found, metadata, about, stem } = whole;
  const { slices, width, height, spacing, milliseconds } = found;
  const bySlice = slices.map(({ outputs, pixels = [] }, slice) => ({
    slice,
    class_scores: scoresOf(outputs, metadata),
    mask_classes: areasOf(pixels, outputs, width * height, spacing ? spacing[1] * spacing[2] : 0, metadata),
    ...trustOf(outputs, metadata),
  }));
  saveJson({ ...about, ...facts, milliseconds, by_slice: bySlice }, `${stem}.json`);
}
