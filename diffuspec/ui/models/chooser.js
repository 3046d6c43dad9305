/* The line under the title and the list of pairs. All text by textContent. */
const { make } = window.DiffuSpecDraw;
const at = (name) => element.querySelector(`[data-${name}]`);
const panel = at("panel");
const ask = (act, more = {}) => trigger("select", { act, ...more });

const action = (text, label, act, key, primary) => {
  const node = make("button", primary ? "ds-primary" : "", text);
  node.type = "button";
  node.dataset.act = act;
  node.setAttribute("aria-label", label);
  node.addEventListener("click", () => ask(act, { pair: key }));
  return node;
};

const WORDS = { ready: "loaded", loading: "loading", failed: "failed", off: "" };

const row = (pair, own) => {
  const node = make("li", "ds-models-row");
  node.dataset.key = pair.key;
  if (pair.chosen) node.setAttribute("aria-current", "true");
  const name = make("h3", "", pair.title);
  const word = pair.chosen && pair.state === "ready" ? "in use" : WORDS[pair.state];
  if (word) name.append(make("span", `ds-models-state ${pair.state}`, word));
  const what = make("p", "", pair.drafter ? `${pair.target} + ${pair.drafter}` : pair.target);
  const about = make("p", "ds-hint", [...pair.about, ...(pair.held ? [`loaded: ${pair.held}`] : [])].join(" · "));
  const text = make("div", "ds-models-text");
  text.append(name, what, about);
  if (pair.large) text.append(make("p", "ds-models-large", "more than is free here now"));
  if (pair.state === "failed") text.append(make("p", "ds-models-problem", pair.said));
  const acts = make("div", "ds-models-acts");
  if (pair.state === "loading") {
    const bar = make("progress");
    bar.max = 1;
    if (pair.fraction !== null) bar.value = pair.fraction;
    bar.setAttribute("aria-label", `Loading ${pair.title}`);
    text.append(bar, make("p", "ds-hint", pair.said));
    if (own) acts.append(action("Cancel", `Do not load ${pair.title}`, "unload", pair.key));
  } else {
    if (!pair.chosen || pair.state !== "ready") {
      const words = pair.state === "ready" ? "Use" : pair.state === "failed" ? "Try again" : "Load";
      acts.append(action(words, `${words} ${pair.title}`, "use", pair.key, true));
    }
    if (pair.state === "ready" && own) acts.append(action("Unload", `Unload ${pair.title}`, "unload", pair.key));
  }
  node.append(text, acts);
  return node;
};

/** The list drawn anew, with the keyboard's focus where it was. */
const draw = () => {
  if (!props.value) return;
  const said = JSON.parse(props.value);
  at("main").textContent = said.line.main;
  at("drafts").textContent = said.line.drafts;
  at("whole").textContent = said.line.whole;
  at("open").title = `${said.line.whole} Press for other models.`;
  at("own").hidden = !said.own;
  at("free").textContent = said.free;
  const focused = document.activeElement?.closest?.(".ds-models-row")?.dataset.key;
  at("list").replaceChildren(...said.pairs.map((pair) => row(pair, said.own)));
  if (focused) [...at("list").children].find((node) => node.dataset.key === focused)?.querySelector("button")?.focus();
};

at("open").addEventListener("click", () => {
  panel.showModal();
  ask("look");
});
at("close").addEventListener("click", () => panel.close());
panel.addEventListener("click", (event) => {
  if (event.target === panel) panel.close();
});
at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask("own", { own: Object.fromEntries(new FormData(at("form"))) });
});
draw();
watch("value", draw);
