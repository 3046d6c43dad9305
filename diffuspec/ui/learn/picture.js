/* The picture in a lesson's text: rows of blocks (learn/pictures.py), read from top to bottom and left to right as text;
   for the glossary a field that leaves the terms that hold what is typed. */
const { make, plural } = window.DiffuSpecDraw;
const root = element.querySelector(".ds-picture");

/* What a tone says to those who do not see it. */
const WORDS = { mask: "masked", path: "on the path", accepted: "accepted", refused: "refused", own: "the target’s own", faint: "dropped" };

const block = ({ text, tone, note, width }) => {
  const node = make("span", `ds-block ${tone}`);
  const face = make("span", "", text);
  if (WORDS[tone]) face.title = WORDS[tone];
  if (note) node.append(make("small", "", note));
  node.append(face);
  if (tone === "none") node.setAttribute("aria-hidden", "true");
  if (width !== null) node.style.flex = `${width} 1 0`;
  return node;
};

const figure = ({ rows, caption }) => {
  const box = make("figure");
  const list = make("ol");
  list.setAttribute("tabindex", "0");
  list.setAttribute("aria-label", caption);
  // Where the rows are not drawn to scale, their blocks stand above each other, as in a lattice.
  const cells = rows.length > 2 && rows.every(({ tiles }) => tiles.every(({ width }) => width === null));
  const most = Math.max(0, ...rows.map(({ tiles }) => tiles.length));
  const wide = Array.from({ length: most }, (_, i) => Math.max(...rows.map(({ tiles }) => [...(tiles[i]?.text ?? "")].length)));
  for (const { label, tiles, note } of rows) {
    const row = make("li");
    const line = make("span", `ds-row-tiles${cells ? " cells" : ""}`);
    // As wide as the longest token of the column, in the letters of the mono face.
    if (cells) line.style.gridTemplateColumns = wide.map((count) => `calc(${Math.max(count, 2)}ch + 16px)`).join(" ");
    line.append(...tiles.map(block));
    row.append(make("b", "", label), line);
    if (note) row.append(make("small", "ds-row-note", note));
    list.append(row);
  }
  box.append(list, make("figcaption", "", caption));
  return box;
};

const find = (words) => {
  const field = make("label", "ds-find");
  const input = make("input");
  Object.assign(input, { type: "search", placeholder: words, id: "glossary-search" });
  input.setAttribute("aria-label", words);
  const count = make("span", "ds-hint");
  count.setAttribute("role", "status");
  const terms = () => [...document.querySelectorAll("#learn-text .learn-prose p")];
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    // Named so first, then those that speak of it.
    for (const term of terms()) term.hidden = !term.textContent.toLowerCase().includes(wanted);
    const left = terms().filter((term) => !term.hidden);
    const named = left.find((term) => term.querySelector("strong")?.textContent.toLowerCase().startsWith(wanted));
    if (wanted) named?.scrollIntoView({ block: "nearest" });
    count.textContent = wanted ? (left.length ? plural(left.length, "term") : "No term has this. Try a shorter word.") : "";
  });
  field.append(input, count);
  return field;
};

const draw = () => {
  const data = JSON.parse(props.value);
  document.getElementById("learn-text").dataset.page = data?.search ? "glossary" : "lesson";
  root.replaceChildren(...(!data ? [] : data.search ? [find(data.search)] : [figure(data)]));
};
draw();
watch("value", draw);
