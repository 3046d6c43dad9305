/* A run on paper: its summary, a step, or every step a page each. In the page's head once, as `window.DiffuSpecPrint`.

   print(player, "run" | "step" | "steps"). A summary is the page as it stands, laid out by print.css; steps are drawn
   into a sheet of their own, which is taken away when the browser has printed. */
window.DiffuSpecPrint = (() => {
  "use strict";

  const { make } = window.DiffuSpecDraw;
  const { story } = window.DiffuSpecReasons;
  const Lattice = window.DiffuSpecLattice;

  const WIDTH = 1040; // px of a landscape A4 page between its margins
  const TOLD = ["mask", "lattice", "search", "verify", "commit"];

  const who = (data) => [
    `${data.pair.target}, ${data.pair.dtype}`, data.pair.drafter && `drafted by ${data.pair.drafter}`, data.merits.provenance.badge,
  ].filter(Boolean).join(" · ");

  /** One step as a page: the text up to it, the lattice with the target's row, and its five phases in words. */
  function page(player, step) {
    const { data } = player;
    const sheet = make("section", "ds-sheet");
    sheet.append(make("h2", "", `Step ${step.i + 1} of ${data.steps.length}`), make("p", "ds-hint", data.question || ""));
    const text = make("p", "ds-sheet-text");
    for (const unit of data.units) {
      const at = unit.s[unit.s.length - 1];
      if (at > step.i) break;
      text.append(make("span", `ds-unit ${unit.o[unit.o.length - 1]}${at === step.i ? " now" : ""}`, unit.t));
    }
    sheet.append(text);
    const view = { data, step, phase: "commit", show: { ...player.show, path: true, rows: false } };
    const box = make("div", "ds-sheet-lattice");
    if (step.detail && (step.k || step.path.length)) {
      const rows = Lattice.draw(box, { ...view, fit: null, room: WIDTH });
      const legend = make("ul", "ds-lattice-legend");
      Lattice.drawLegend(legend, view, rows);
      sheet.append(box, legend);
    } else sheet.append(make("p", "", "Nothing was drafted in this step: the target wrote one token itself."));
    const told = make("dl", "ds-sheet-story");
    for (const phase of TOLD) {
      const words = story(data, step, phase);
      if (words) told.append(make("dt", "", phase), make("dd", "", words));
    }
    sheet.append(told, make("footer", "ds-hint", `${who(data)} · DiffuSpec Playground`));
    return sheet;
  }

  /** The page in light colours for as long as it is printed. */
  async function summary(player) {
    const dark = document.body.classList.contains("dark");
    if (dark) {
      addEventListener("afterprint", () => document.body.classList.add("dark"), { once: true });
      document.body.classList.remove("dark");
      await player.drawFigures();
      await new Promise((done) => setTimeout(done, 500)); // figures under way are drawn once more
    }
    window.print();
  }

  function print(player, what) {
    player.presenter.leave();
    if (what === "run") return summary(player);
    const steps = what === "step" ? [player.step] : player.data.steps;
    const sheets = make("div", "ds ds-sheets ds-light");
    sheets.append(...steps.filter(Boolean).map((step) => page(player, step)));
    player.root.after(sheets); // where the page's style sheets reach it
    player.root.parentElement.classList.add("ds-printing-steps");
    const done = () => {
      sheets.remove();
      player.root.parentElement.classList.remove("ds-printing-steps");
    };
    addEventListener("afterprint", done, { once: true });
    window.print();
  }

  return { print, who };
})();
