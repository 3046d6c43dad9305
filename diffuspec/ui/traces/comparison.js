/* Two runs beside each other. All text by textContent. */
const { make } = window.DiffuSpecDraw;
const root = element.querySelector(".ds-comparison");

const draw = () => {
  root.replaceChildren();
  if (!props.value) return;
  const { notes, rows } = JSON.parse(props.value);
  const card = make("section", "ds-card");
  card.append(make("h3", "", "Compared"));
  for (const note of notes) card.append(make("p", "", note));
  const table = make("table");
  const head = make("tr");
  for (const name of ["", "the run of the card", "the run on the Playground"]) {
    const cell = make("th", "", name);
    cell.scope = "col";
    head.append(cell);
  }
  const body = make("tbody");
  for (const [name, ...values] of rows) {
    const row = make("tr");
    const first = make("th", "", name);
    first.scope = "row";
    row.append(first, ...values.map((value) => make("td", "", value)));
    body.append(row);
  }
  const top = make("thead");
  top.append(head);
  table.append(top, body);
  card.append(table);
  root.append(card);
  root.scrollIntoView({ block: "nearest" });
};
draw();
watch("value", draw);
