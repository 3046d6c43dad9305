/* A study's results: the table that fills, the paper's values marked, progress while it is measured. The value's
   JSON is that of ui/measure/view.py; files of results come from strangers, so all text goes through textContent. */
const results = (() => {
  "use strict";

  const { downloads, make } = window.DiffuSpecDraw;
  const root = element.querySelector(".ds-results");
  const find = (name) => root.querySelector(`[data-${name}]`);
  let said = null;

  const table = ({ heads, rows, paper_rows }) => {
    const theirs = new Set(paper_rows);
    const node = make("table", "ds-results-table");
    const thead = make("thead");
    const first = make("tr");
    first.append(...heads.map(([label, paper]) => make("th", paper ? "ds-theirs" : "", paper ? `◇ ${label}` : label)));
    thead.append(first);
    const tbody = make("tbody");
    rows.forEach((row, i) => {
      const tr = make("tr", theirs.has(i) ? "ds-theirs" : "");
      tr.append(...row.map((text, j) => make(j ? "td" : "th", heads[j][1] ? "ds-theirs" : "", theirs.has(i) && !j ? `◇ ${text}` : text)));
      tbody.append(tr);
    });
    node.append(thead, tbody);
    return node;
  };
  const whole = () => {
    const details = find("whole");
    while (details.children.length > 1) details.lastChild.remove();
    if (!details.open || !said.whole) return;
    const scroll = make("div", "ds-scroll ds-table-scroll");
    scroll.tabIndex = 0;
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", "Every row and column");
    scroll.append(table(said.whole));
    details.append(scroll);
  };
  const update = () => {
    if (!props.value) return;
    said = JSON.parse(props.value);
    const has = Boolean(said.summary);
    find("title").textContent = `${said.title} (${said.where})`;
    find("about").textContent = said.about;
    find("badge").textContent = said.live ? "being measured" : has ? said.source.badge : "not measured yet";
    find("badge").title = has ? said.source.title : "";
    find("said").textContent = said.said || "";
    find("note").textContent = has && !said.live ? said.note : "";
    find("paper").textContent = said.paper;
    find("key").hidden = !said.paper;
    find("remark").textContent = said.remark || "";
    find("conditions").textContent = said.conditions || "";
    const open = has && (said.live || !said.complete);
    find("progress").hidden = !open && !said.live;
    const bar = root.querySelector("progress");
    if (has && said.total) bar.value = said.done / said.total;
    else bar.removeAttribute("value");
    find("count").textContent = has ? `${said.done} of ${said.total} answers${said.now ? `; next: ${said.now}` : ""}` : "";
    const rows = has ? said.summary.rows : [];
    find("summary").replaceChildren(
      rows.length ? table(said.summary) : make("p", "ds-empty", said.live ? "The first row comes when every variant has answered the first question." : "Nothing measured yet: press Measure, or open a results file."),
    );
    whole();
  };
  find("whole").addEventListener("toggle", whole);
  root.querySelector("footer").append(downloads({
    name: () => `study-${said.study}`, title: "results",
    read: () => (said.whole ? { head: said.whole.heads.map(([label, paper]) => (paper ? `${label}, the paper's` : label)), rows: said.whole.rows } : { head: [], rows: [] }),
  }));
  return { update };
})();
results.update();
watch("value", results.update);
