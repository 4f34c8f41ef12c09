// Small parts of the page: elements, cells, figures, files to save.

export const element = (id) => document.getElementById(id);

export function say(text, isProblem = false) {
  element("status").textContent = text;
  element("status").classList.toggle("problem", isProblem);
}

export function figure(value) {
  return value.toFixed(3);
}

export function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

// A length, area or volume in its unit; a dash where it is unknown.
export function measure(value) {
  return typeof value === "number" ? value.toPrecision(4) : "–";
}

// A name that a narrow table may break after its underscores.
export function breakable(name) {
  const parts = document.createElement("span");
  for (const part of name.split(/(?<=_)/)) parts.append(part, document.createElement("wbr"));
  return parts;
}

// A line of a table; cells are text or nodes, the first of them the line's head.
export function row(first, ...others) {
  const line = document.createElement("tr");
  line.append(Object.assign(document.createElement("th"), { scope: "row" }));
  line.append(...others.map(() => document.createElement("td")));
  [first, ...others].forEach((content, i) => line.children[i].append(content));
  return line;
}

export function columnHead(content) {
  const head = Object.assign(document.createElement("th"), { scope: "col" });
  head.append(content);
  return head;
}

export function save(blob, name) {
  const href = URL.createObjectURL(blob);
  Object.assign(document.createElement("a"), { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}

export function saveJson(value, name) {
  save(new Blob([`${JSON.stringify(value, null, 2)}\n`], { type: "application/json" }), name);
}
