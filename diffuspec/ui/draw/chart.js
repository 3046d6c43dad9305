/* One figure with its title, caption, data-table twin and downloads. The value's JSON: title, hint, caption, label
   (what a reader who does not see it is told), name (of downloaded files), figure, colours, table {head, rows}. */
const { downloads, figure, onTheme, plotly, table } = window.DiffuSpecDraw;
const chart = (() => {
  "use strict";

  const root = element.querySelector(".ds-chart");
  const find = (name) => root.querySelector(`[data-${name}]`);
  let said = null;
  let drawing = Promise.resolve();

  const draw = () => {
    if (!said || !said.figure) return;
    drawing = drawing.then(async () => figure(await plotly(props.plotly_url), find("plot"), said.figure, said.colours)).catch(() => {});
  };
  const update = () => {
    if (!props.value) return;
    said = JSON.parse(props.value);
    root.hidden = !said.figure;
    if (root.hidden) return;
    for (const name of ["title", "hint", "caption"]) find(name).textContent = said[name] || "";
    find("plot").style.height = `${said.figure.layout.height}px`;
    find("plot").setAttribute("aria-label", said.label);
    table(find("table"), () => said.table);
    draw();
  };
  find("table").addEventListener("toggle", () => said && table(find("table"), () => said.table));
  find("save").append(downloads({ name: () => said.name, title: () => (said ? said.title : "picture"), caption: () => said.caption, node: () => find("plot"), read: () => said.table }));
  const life = new AbortController();
  onTheme(draw, life.signal);
  let resizing;
  new ResizeObserver(() => {
    clearTimeout(resizing);
    resizing = setTimeout(draw, 120);
  }).observe(root);
  return { update };
})();
chart.update();
watch("value", chart.update);
