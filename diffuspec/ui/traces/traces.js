/* The cards of traces: the recorded ones, or a visitor's own runs. All text by textContent. */
const { make, plural } = window.DiffuSpecDraw;
const root = element.querySelector(".ds-gallery");

const figures = (card) => {
  const list = make("dl", "ds-card-figures");
  const add = (term, name, value) => {
    const box = make("div");
    const dt = make("dt", "", name);
    if (term) dt.dataset.explain = term;
    box.append(make("dd", "", value), dt);
    list.append(box);
  };
  add("tokens-per-step", "tokens/step", card.tokens_per_step.toFixed(2));
  add("accepted-per-step", "accepted/step", card.accepted_per_step.toFixed(2));
  add("speed-up", "speed-up", card.speedup === null ? "–" : `${card.speedup.toFixed(2)}×`);
  return list;
};

const draw = () => {
  root.replaceChildren();
  for (const group of JSON.parse(props.value).groups) {
    const section = make("section");
    section.id = `gallery-${group.id}`;
    const head = make("header", "ds-head");
    head.append(make("h2", "", group.title), make("span", "ds-hint", group.about));
    const grid = make("div", "ds-cards");
    for (const card of group.cards) {
      const node = make("article", "ds-card ds-trace-card");
      const mine = card.at !== undefined;
      const title = mine ? new Date(card.at * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }) : card.title;
      node.append(make("h3", "", title));
      if (card.problem) {
        node.append(make("p", "ds-problem", card.problem));
        grid.append(node);
        continue;
      }
      const prompt = make("blockquote", "", card.prompt);
      prompt.title = card.prompt;
      const foot = make("footer");
      const open = make("button", "ds-primary", "Open");
      open.type = "button";
      open.setAttribute("aria-label", `Open ${title} on the Playground`);
      open.addEventListener("click", () => trigger("select", { name: card.name }));
      const link = make(mine ? "button" : "a", "", mine ? "compare" : "link");
      if (mine) {
        link.type = "button";
        link.title = "Set it beside the run on the Playground";
        link.setAttribute("aria-label", `Compare ${title} with the run on the Playground`);
        link.addEventListener("click", () => trigger("expand", { name: card.name }));
      } else {
        link.href = `?trace=${encodeURIComponent(card.name)}#playground`;
        link.setAttribute("aria-label", `Link to ${title}`);
        link.title = "An address that opens this trace";
      }
      foot.append(open, link, make("span", `ds-verdict-${card.state}`, card.state === "same" ? "✓ identical to AR" : card.verdict));
      const badge = make("p", "ds-badge", card.badge);
      badge.title = `${card.models}; ${card.origin}`;
      node.append(
        prompt, make("p", "ds-look", card.look), figures(card),
        make("p", "ds-hint", `${plural(card.tokens, "token")} in ${plural(card.steps, "step")} · ${card.pair}`), badge, foot,
      );
      grid.append(node);
    }
    section.append(head, grid);
    root.append(section);
  }
};
draw();
watch("value", draw);
