/* A lesson's question: predict first, then the server computes the answer; sliders compute it anew. */
const { make, plotly, figure, onTheme } = window.DiffuSpecDraw;
const root = element.querySelector(".ds-quiz");
const life = new AbortController();
let data = null;
let drawn = null;
let asked = 0;

const grid = ({ head, rows }, label) => {
  const scroll = make("div", "ds-scroll");
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", label);
  const table = make("table", "ds-given");
  const thead = make("thead");
  const line = (values, tag) => {
    const tr = make("tr");
    tr.append(...values.map((value) => make(tag, "", value)));
    return tr;
  };
  thead.append(line(head, "th"));
  const tbody = make("tbody");
  tbody.append(...rows.map((row) => line(row, "td")));
  table.append(thead, tbody);
  scroll.append(table);
  return scroll;
};

const paint = async () => {
  if (!drawn || !drawn.figure || !drawn.plot.isConnected) return;
  await figure(await plotly(props.plotly_url), drawn.plot, drawn.figure, data.colours);
};

/** What the reader predicted, or null. */
const guess = (form) => {
  if (data.choices.length) return form.querySelector("input:checked")?.value ?? null;
  const input = form.querySelector("input");
  return input.value === "" || !input.checkValidity() ? null : Number(input.value);
};

const sliders = (form, refresh) => {
  const box = make("div", "ds-inputs");
  for (const [name, input] of Object.entries(data.inputs)) {
    const label = make("label");
    const value = make("output", "", String(input.value));
    const range = make("input");
    Object.assign(range, { type: "range", min: input.low, max: input.high, step: input.step, name });
    range.value = input.value;
    range.addEventListener("input", () => {
      value.textContent = range.value;
      refresh();
    });
    label.append(make("span", "", input.label), range, value);
    box.append(label);
  }
  return box;
};

const ask = async (form, box) => {
  const turn = ++asked;
  const inputs = Object.fromEntries([...box.querySelectorAll(".ds-inputs input")].map((i) => [i.name, Number(i.value)]));
  const told = await server.reveal({ lesson: data.lesson, guess: guess(form), inputs });
  return turn === asked ? told : null;
};

const fill = (box, told) => {
  box.querySelector(".ds-words").textContent = told.words;
  if (told.figure) {
    drawn = { figure: told.figure, plot: box.querySelector(".ds-plot") };
    paint();
  }
};

const reveal = async (form, box) => {
  const told = await ask(form, box);
  if (!told) return;
  for (const control of form.querySelectorAll("input, .ds-reveal")) control.disabled = true;
  const verdict = make("p", `ds-verdict ${told.right ? "right" : "wrong"}`, told.verdict);
  const again = make("button", "ds-again", "predict again");
  again.type = "button";
  again.addEventListener("click", () => draw());
  verdict.append(" ", again);
  box.replaceChildren(verdict, make("p", "ds-words"));
  if (told.figure) {
    const plot = make("div", "ds-plot");
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", told.about);
    box.append(plot);
  }
  if (Object.keys(data.inputs).length) {
    let wait = 0;
    box.append(sliders(form, () => {
      clearTimeout(wait);
      wait = setTimeout(async () => {
        const fresh = await ask(form, box);
        if (fresh && !fresh.error) fill(box, fresh);
      }, 60);
    }));
  }
  if (told.after) box.append(grid(told.after, "What happened"));
  fill(box, told);
  verdict.tabIndex = -1;
  verdict.focus({ preventScroll: true });
  document.dispatchEvent(new CustomEvent("diffuspec-predicted", { detail: data.lesson }));
};

const draw = () => {
  data = JSON.parse(props.value);
  drawn = null;
  asked++;
  root.replaceChildren();
  root.hidden = !data.lesson && !data.problem;
  if (!data.lesson) {
    if (data.problem) root.append(make("p", "ds-card", data.problem));
    return;
  }
  const form = make("form", "ds-card");
  form.append(make("h2", "", "Predict"), make("p", "ds-question", data.question));
  if (data.table) form.append(grid(data.table, "What is known"));
  const field = make("fieldset");
  field.append(make("legend", "", "Your prediction"));
  if (data.choices.length) {
    for (const [key, words] of data.choices) {
      const label = make("label", "ds-choice");
      const radio = make("input");
      Object.assign(radio, { type: "radio", name: "prediction", value: key });
      label.append(radio, make("span", "", words));
      field.append(label);
    }
  } else {
    const label = make("label", "ds-number-field");
    const input = make("input");
    Object.assign(input, { type: "number", min: data.low, max: data.high, step: data.step > 0 && data.step < 1 ? "any" : data.step, required: true });
    input.setAttribute("aria-label", `Your prediction, ${data.low} to ${data.high} ${data.unit}`);
    label.append(input, make("span", "", `${data.unit} (${data.low} to ${data.high})`));
    field.append(label);
  }
  const button = make("button", "ds-primary ds-reveal", "Reveal");
  button.type = "submit";
  button.disabled = true;
  form.append(field, button);
  form.addEventListener("input", () => (button.disabled = guess(form) === null));
  const box = make("div", "ds-card ds-told");
  box.setAttribute("aria-live", "polite");
  box.append(make("p", "ds-empty", "Predict first: what you find out by being wrong you keep."));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (guess(form) !== null) reveal(form, box);
  });
  const open = make("button", "ds-open", data.open);
  open.type = "button";
  open.addEventListener("click", () => trigger("select", { lesson: data.lesson }));
  const foot = make("p", "ds-onward");
  foot.append(open);
  if (data.next) {
    const next = make("a", "", `Next: ${data.next.title} →`);
    next.href = `#learn/${data.next.name}`;
    foot.append(next);
  }
  root.append(form, box, foot);
};

draw();
watch("value", draw);
onTheme(paint, life.signal);
new ResizeObserver(paint).observe(root);
