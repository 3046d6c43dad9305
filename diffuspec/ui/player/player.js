/* The player: draws one trace payload (diffuspec/ui/player/payload.py) and steps through it.

   No framework, no request, no Gradio: mount(root, {plotly}) returns {update(json)}. `plotly` is a
   function that gives a promise of the Plotly object. Token text is untrusted: it reaches the page
   through textContent only. Needs draw.js, reason.js, lattice.js, address.js, print.js and present.js.

   Options beside plotly: `qr(address)`, a promise of {rows} of its QR code (left out where no server is). Until the phase *verify* nothing on the page tells what the target says of the
   step in front, so that a class can guess. */
window.DiffuSpecPlayer = (() => {
  "use strict";

  const { make, prob, signed, plural } = window.DiffuSpecDraw;
  const { cellFacts, reason, defaultCell, lostBeams, story, searched, p } = window.DiffuSpecReasons;
  /** What a verification by a server took. */
  const serverWords = (took) => [
    `the target’s p where the server told it (–: it did not); ${took.prompts} texts in ${took.requests === 1 ? "one request" : `${took.requests} requests`}, ${took.total_ms.toFixed(0)} ms`,
    took.server_ms === null ? "" : `, ${took.server_ms.toFixed(0)} of them in the server`,
    took.recomputed === null ? "" : `, which read ${took.recomputed} tokens`,
  ].join("");
  const Draw = window.DiffuSpecDraw;
  const Lattice = window.DiffuSpecLattice;
  const { Presenter } = window.DiffuSpecPresenter;
  const { who } = window.DiffuSpecPrint;

  const PHASES = ["mask", "lattice", "search", "verify", "commit"];
  const SEARCHES = { cps: "CPS path", exact: "exact path", tree: "tree", argmax: "argmax path" };
  const PROXIES = { ngram: "3-gram", "ngram+context": "3-gram + context", context: "3-gram of this text", none: "no proxy" };
  const TOLD_MS = { mask: 700, lattice: 1000, search: 1400, verify: 1600, commit: 1000 }; // how long play stays in a phase
  const STEP_MS = 900; // how long play stays in a step where it does not tell the phases
  const LIVE_MS = 1000; // a run under way moves on to its newest step no oftener: drawing takes the engine's cores
  const SPEEDS = [0.5, 1, 2, 4];
  const SIGN = { accepted: "✓", correction: "↺", bonus: "+" };
  const EMBEDDED = { lattice: 620, adl: 380, acceptance: 380, stages: 340, bars: 330 }; // px, height of the picture alone
  const capital = (text) => text[0].toUpperCase() + text.slice(1);

  class Player {
    constructor(root, options) {
      this.root = root;
      root.player = this;
      this.options = options;
      this.data = null;
      this.at = 0;
      this.phase = "verify";
      this.cell = null;
      this.follow = true;
      this.playing = null;
      this.speed = 1;
      this.told = true; // play goes through the phases of each step
      this.show = { prompt: false, ghosts: false, path: true, argmax: false, oracle: false, target: false, beams: false, rows: false };
      this.find = (selector) => root.querySelector(selector);
      this.figures = {};
      for (const node of root.querySelectorAll("[data-figure]")) this.figures[node.dataset.figure] = node;
      this.lifetime = new AbortController();
      this.guesses = new Map(); // step -> how many of its tokens the visitor expects to be accepted
      this.wire();
      this.presenter = new Presenter(this);
    }

    on(target, event, act, options = {}) {
      target.addEventListener(event, act, { ...options, signal: this.lifetime.signal });
    }

    wire() {
      const click = (selector, act) => this.on(this.find(selector), "click", act);
      click("#step-first", () => this.go(0));
      click("#step-prev", () => this.go(this.at - 1));
      click("#step-next", () => this.go(this.at + 1));
      click("#step-last", () => this.go(Infinity));
      click("#step-play", () => this.play(!this.playing));
      click("#step-speed", (event) => {
        this.speed = SPEEDS[(SPEEDS.indexOf(this.speed) + 1) % SPEEDS.length];
        event.currentTarget.textContent = `${this.speed}×`;
      });
      this.on(this.find("#step-scrub"), "input", (event) => this.go(Number(event.target.value) - 1));
      this.on(this.find("#text"), "click", (event) => {
        const unit = event.target.closest("[data-step]");
        if (unit) this.go(Number(unit.dataset.step));
      });
      for (const button of this.root.querySelectorAll("[data-toggle]")) {
        this.on(button, "click", () => this.toggle(button.dataset.toggle, button));
      }
      const phases = this.find(".ds-phases");
      PHASES.forEach((name, number) => {
        const button = make("button", "", name);
        button.type = "button";
        button.id = `phase-${name}`;
        button.setAttribute("role", "radio");
        button.title = `${name} (key ${number + 1})`;
        this.on(button, "click", () => this.setPhase(name));
        phases.append(button);
      });
      this.on(phases, "keydown", (event) => {
        const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!move) return;
        event.preventDefault();
        event.stopPropagation();
        this.setPhase(PHASES[(PHASES.indexOf(this.phase) + move + PHASES.length) % PHASES.length]);
        this.find(`#phase-${this.phase}`).focus();
      });
      const lattice = this.find("[data-lattice]");
      this.on(lattice, "click", (event) => {
        const cell = event.target.closest("[data-col]");
        if (cell) this.pick(Number(cell.dataset.col), Number(cell.dataset.rank));
      });
      this.on(lattice, "keydown", (event) => this.latticeKey(event));
      this.on(this.find("[data-beams]"), "click", (event) => {
        const beam = event.target.closest("[data-beam]");
        if (beam) this.pick(...beam.dataset.beam.split(",").map(Number));
      });
      this.on(document, "keydown", (event) => this.key(event));
      for (const details of this.root.querySelectorAll("[data-table]")) {
        const name = details.dataset.table;
        this.on(details, "toggle", () => this.drawTable(details));
        const node = this.find(`[data-picture=${name}]`);
        const one = this.stepwise(name);
        details.after(Draw.downloads({
          name: () => `diffuspec-${name}${one ? `-step-${this.at + 1}` : ""}`,
          title: () => `${capital(details.dataset.title)}${one && this.data ? `, step ${this.at + 1} of ${this.data.steps.length}` : ""}`,
          node: node && (() => node.querySelector(".ds-grid, .ds-bar-list") || node),
          legend: name === "lattice" ? () => this.find("[data-legend]") : undefined,
          caption: () => this.caption(name),
          embed: () => this.presenter.frame(name, EMBEDDED[name]),
          read: () => this[`${name}Table`](),
        }));
      }
      Draw.onTheme(() => this.drawFigures(), this.lifetime.signal);
      const size = new ResizeObserver(() => this.resize());
      size.observe(this.root);
      this.lifetime.signal.addEventListener("abort", () => {
        size.disconnect();
        this.play(false);
      });
    }

    /** Whether a table tells of one step only. */
    stepwise(name) {
      return ["lattice", "bars", "beams"].includes(name);
    }

    /** What stands below a picture that is taken along: what it shows, and where the numbers come from. */
    caption(name) {
      if (!this.data) return "";
      const said = name === "lattice" && this.step ? story(this.data, this.step, this.phase) : name === "adl" ? this.find("[data-adl-caption]").textContent : "";
      return [said, this.data.question && `Prompt: “${this.data.question.slice(0, 160)}”.`, `${who(this.data)}.`].filter(Boolean).join(" ");
    }

    /** Draw a payload; payloads of one run are merged. */
    update(json) {
      if (!json || json === this.json) return;
      this.json = json;
      const next = JSON.parse(json);
      const fresh = !this.data || this.data.run !== next.run;
      if (fresh) {
        this.play(false);
        this.follow = next.live;
        this.at = 0;
        this.awaited = null;
        this.cell = null;
        this.drawn = [];
        this.guesses.clear();
        this.find("#text").replaceChildren();
      } else {
        next.labels = Object.assign(this.data.labels, next.labels);
        next.steps.forEach((step, i) => {
          if (!step.detail && this.data.steps[i]) step.detail = this.data.steps[i].detail;
        });
      }
      const pictured = Boolean(next.figures);
      if (!pictured && !fresh) next.figures = this.data.figures;
      // Those of the run before stand in their place until this one's are drawn.
      for (const node of Object.values(this.figures)) node.classList.toggle("ds-stale", !next.figures);
      this.data = next;
      const before = this.at;
      const due = fresh || !next.live || !this.counted || performance.now() - this.movedAt >= LIVE_MS;
      if (due) this.movedAt = performance.now();
      this.counted = next.steps.length;
      if ((this.follow && due) || this.at >= next.steps.length) this.at = this.lastDraft();
      // A run that was followed to its end opens at such a step too: its last ones are short of tokens to draft.
      const opens = fresh || (this.follow && next.steps.length) || (this.awaited !== null && this.awaited === this.at);
      if (opens && !next.live) {
        // A short run may be over at the first look, whose last steps alone are sent in full: then the last one stands in
        // front until the rest has come, unless the visitor goes elsewhere.
        const telling = this.tellingStep();
        const waits = telling < next.steps.length && !next.steps[telling].detail;
        this.at = waits ? this.lastDraft() : telling;
        this.awaited = waits ? this.at : null;
      }
      const wanted = fresh && (next.at || this.presenter.wanted(next));
      if (wanted) {
        if (wanted.step !== null) this.at = Math.min(wanted.step, Math.max(next.steps.length - 1, 0));
        this.phase = wanted.phase || this.phase;
      }
      if (this.at !== before) this.cell = null;
      if (!next.live) this.follow = false;
      this.find("[data-toggle=path]").textContent = next.origin ? "draft" : SEARCHES[next.settings.search];
      // Another engine's drafts have no beams, and no other path where its candidates are not told.
      const shownOf = { argmax: "candidates", oracle: "candidates", target: "candidates", rows: "candidates", beams: "search" };
      for (const [name, needs] of Object.entries(shownOf)) {
        this.find(`[data-toggle=${name}]`).hidden = Boolean(next.origin && !next.origin[needs]);
        if (next.origin && !next.origin[needs] && this.show[name]) this.toggle(name, this.find(`[data-toggle=${name}]`));
      }
      this.drawMerits();
      this.drawText();
      if (pictured) this.drawFigures();
      if (due) this.drawStep();
      else this.drawBar();
      this.presenter.updated(fresh);
      this.root.dispatchEvent(new CustomEvent("diffuspec-trace", { bubbles: true, detail: this }));
    }

    /** A step worth opening with: one cut short, with several tokens accepted if there is one, and where the search could
        have done better. */
    tellingStep() {
      const { steps } = this.data;
      const cut = (s) => s.path.length > 1 && s.seen > 0 && s.seen < s.path.length;
      const wishes = [(s) => s.accepted > 1 && s.oracle > s.accepted, (s) => s.accepted > 1, (s) => s.oracle > s.accepted, () => true];
      for (const wish of wishes) {
        const found = steps.findIndex((s) => cut(s) && wish(s));
        if (found >= 0) return found;
      }
      return 0;
    }

    /** The newest step that drafted anything: the very last may have had one token of the budget left. */
    lastDraft() {
      const { steps } = this.data;
      const last = Math.max(steps.length - 1, 0);
      return steps.length > 1 && !steps[last].k ? last - 1 : last;
    }

    get step() {
      return this.data && this.data.steps[this.at];
    }

    /** Whether nothing may yet tell what the target says of the step in front. */
    get guessing() {
      return !Lattice.judged(this.phase);
    }

    go(index) {
      if (!this.data || !this.data.steps.length) return;
      const last = this.data.steps.length - 1;
      const to = Math.min(Math.max(index, 0), last);
      this.follow = this.data.live && to === last;
      if (to === this.at) return;
      this.at = to;
      this.cell = null;
      this.drawStep();
      this.presenter.moved();
    }

    /** To the next phase of the step, or the first of the next step; with -1 back. */
    advance(by) {
      const to = PHASES.indexOf(this.phase) + by;
      if (PHASES[to]) return this.setPhase(PHASES[to]);
      const step = this.at + by;
      if (!this.data || step < 0 || step >= this.data.steps.length) return;
      this.phase = PHASES[by > 0 ? 0 : PHASES.length - 1];
      this.go(step);
    }

    /** Tell the steps one after another, each phase by phase; a second call with false stops. */
    play(on) {
      clearTimeout(this.playing);
      this.playing = null;
      if (on && this.data && this.data.steps.length) {
        if (this.at === this.data.steps.length - 1 && this.phase === "commit") this.go(0);
        if (this.told) this.setPhase(PHASES[0]);
        this.wait();
      }
      const button = this.find("#step-play");
      button.textContent = this.playing ? "⏸ pause" : "▶ play";
      button.setAttribute("aria-pressed", String(Boolean(this.playing)));
      if (this.data) this.markText();
    }

    wait() {
      const told = this.told && this.step && this.step.k;
      this.playing = setTimeout(() => this.tick(), (told ? TOLD_MS[this.phase] : STEP_MS) / this.speed);
    }

    tick() {
      const place = PHASES.indexOf(this.phase);
      if (this.told && this.step.k && place < PHASES.length - 1) {
        this.setPhase(PHASES[place + 1]);
      } else if (this.at < this.data.steps.length - 1) {
        if (this.told) this.phase = PHASES[0];
        this.go(this.at + 1);
      } else if (!this.data.live) return this.play(false);
      this.wait();
    }

    toggle(name, button) {
      if (name === "told") {
        this.told = !this.told;
        button.setAttribute("aria-pressed", String(this.told));
        return;
      }
      this.show[name] = !this.show[name];
      button.setAttribute("aria-pressed", String(this.show[name]));
      if (name === "prompt" || name === "ghosts") {
        this.drawn = [];
        this.find("#text").replaceChildren();
        this.drawText();
      } else this.drawLattice();
    }

    setPhase(name) {
      this.phase = name;
      this.drawStep(true);
      this.presenter.moved();
    }

    /** A cell that the visitor wants to look at, in every phase of the step. */
    pick(col, rank, focus = false) {
      this.select(col, rank, focus);
      this.cell.picked = true;
    }

    /** The cell to look at where none was picked; before the verdict one that gives nothing away. */
    defaultCell(step) {
      if (!this.guessing || !step.path.length) return defaultCell(step);
      return { col: 0, rank: this.phase === "search" || !step.k ? step.detail.ranks[0] : 0 };
    }

    select(col, rank, focus = false) {
      this.cell = { col, rank, picked: Boolean(this.cell && this.cell.picked) };
      const old = this.find("[data-lattice] [aria-selected=true]");
      if (old) {
        old.setAttribute("aria-selected", "false");
        old.tabIndex = -1;
      }
      const cell = this.find(`[data-lattice] [data-col="${col}"][data-rank="${rank}"]`);
      if (cell) {
        cell.setAttribute("aria-selected", "true");
        cell.tabIndex = 0;
        if (focus) cell.focus();
      }
      this.drawInspector();
    }

    key(event) {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || !this.root.clientWidth) return;
      const from = event.target;
      if (from.closest && from.closest("input:not(.ds-scrub), textarea, select, [contenteditable], [role=listbox], [role=dialog], [role=tab]")) return;
      const steps = { ArrowLeft: -1, ArrowRight: 1 };
      if (event.key in steps) this.go(this.at + steps[event.key]);
      else if (event.key === "Home") this.go(0);
      else if (event.key === "End") this.go(Infinity);
      else if (this.presenter.key(event)) return event.preventDefault();
      else if (PHASES[Number(event.key) - 1]) this.setPhase(PHASES[Number(event.key) - 1]);
      else if (event.key === " " && !(from.closest && from.closest("button, a, summary, label"))) this.play(!this.playing);
      else return;
      event.preventDefault();
    }

    latticeKey(event) {
      const cell = event.target.closest("[data-col]");
      const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!cell) return;
      let col = Number(cell.dataset.col);
      let rank = Number(cell.dataset.rank);
      if (move) {
        const rows = this.phase === "mask" ? [0] : this.rows;
        col += move[0];
        rank = rows[rows.indexOf(rank) + move[1]];
      } else if (event.key === "Home") col = 0;
      else if (event.key === "End") col = Lattice.span(this.step) - 1;
      else if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      event.stopPropagation();
      if (this.find(`[data-lattice] [data-col="${col}"][data-rank="${rank}"]`)) this.pick(col, rank, true);
    }

    /* --------------------------------------------------------------------------- drawing */

    label(id) {
      return Lattice.label(this.data, id);
    }

    drawMerits() {
      const m = this.data.merits;
      const card = (name, figure, note, title = "") => {
        const node = this.find(`[data-merit=${name}]`);
        node.querySelector(".ds-figure").textContent = figure;
        node.querySelector(".ds-note").textContent = note;
        node.title = title;
        return node;
      };
      const here = m.provenance.kind === "measured" ? "measured here" : "as recorded";
      const waiting = m.verdict.state === "pending";
      const told = (value, digits) => (value === null ? "–" : value.toFixed(digits));
      this.find("[data-mat=tokens]").textContent = told(m.tokens_per_step, 2);
      this.find("[data-mat=accepted]").textContent = told(m.accepted_per_step, 2);
      this.find("[data-merit=mat]").title =
        "Mean accepted tokens, two conventions: tokens/step counts the correction or bonus, accepted/step (the paper’s Eq. 2) does not.";
      card("speedup", m.speedup === null ? (waiting ? "…" : "–") : `${m.speedup.toFixed(2)}×`, `over AR, ${here}`,
        "Tokens per second over plain AR decoding by the same target, dtype, kernels and cache, prefill included.");
      const ar = m.ar_tokens_per_second;
      card("rate", told(m.tokens_per_second, 1), `tokens/s · plain AR ${ar === null ? (waiting ? "…" : "–") : ar.toFixed(1)}`);
      const verdict = card("verdict", m.verdict.headline, m.verdict.detail, m.verdict.detail);
      verdict.dataset.state = m.verdict.state;
      const loops = this.find("[data-loops]");
      loops.textContent = `↻ ${m.loops}`;
      loops.hidden = !m.loops;
      const differs = m.verdict.state === "differs" ? `Differs ${m.verdict.detail}. ` : "";
      this.find("[data-why-speed]").textContent = `${differs}${m.why || ""}`;

      const bar = this.find(".ds-stages");
      const stages = m.stage_ms ? this.stages : []; // another engine may not have told them
      const total = Math.max(stages.reduce((sum, name) => sum + m.stage_ms[name], 0), 1e-9);
      bar.replaceChildren(...stages.map((name) => {
        const part = make("i", `ds-stage-${name}`);
        part.style.flexGrow = String(m.stage_ms[name] / total);
        part.title = `${name}: ${m.stage_ms[name].toFixed(0)} ms`;
        return part;
      }));
      const percent = (name) => `${name} ${((100 * m.stage_ms[name]) / total).toFixed(0)}`;
      bar.setAttribute("aria-label", `Time by stage${m.stage_ms ? ` in percent: ${stages.map(percent).join(", ")}` : " is not told"}`);
      const note = this.find("[data-merit=stages] .ds-note");
      if (m.stage_ms) note.replaceChildren(...stages.map((name) => make("span", `ds-key ds-stage-${name}`, percent(name))), document.createTextNode("%"));
      else note.textContent = "time by stage: not told";

      const badge = this.find("[data-badge]");
      badge.textContent = m.provenance.badge;
      badge.title = m.provenance.title;
      this.find("[data-run]").textContent = this.data.live
        ? `${plural(m.new_tokens, "token")} of ${m.budget} …`
        : `${plural(m.new_tokens, "token")}${m.steps === null ? "" : ` in ${plural(m.steps, "step")}`}${m.tokens_per_second === null ? "" : `, ${m.wall_s.toFixed(1)} s`} · ended by ${m.stop_reason === "stopped" ? "you" : m.stop_reason}`;
    }

    drawText() {
      const box = this.find("#text");
      const wanted = [];
      if (this.show.prompt) for (const unit of this.data.prompt) wanted.push({ ...unit, o: ["prompt"] });
      let ghostsFor = -1;
      for (const unit of this.data.units) {
        const step = this.data.steps[unit.s[unit.s.length - 1]];
        const own = unit.o[unit.o.length - 1];
        if (this.show.ghosts && own !== "accepted" && step.i > ghostsFor) {
          const rest = step.path.slice(step.seen);
          if (rest.length) wanted.push({ t: rest.map((id) => this.label(id)).join(""), s: [step.i], o: ["ghost"], x: false });
          ghostsFor = step.i;
        }
        wanted.push(unit);
      }
      const { origin } = this.data;
      if (origin && origin.text) wanted.push({ t: `${wanted.length ? "\n" : ""}${origin.text}`, s: [-1], o: ["told"], x: false });
      const sign = (unit) => `${unit.t}|${unit.s.join()}|${unit.o.join()}`;
      const signs = wanted.map(sign);
      let same = 0;
      while (same < signs.length && signs[same] === this.drawn[same]) same++;
      while (box.children.length > same) box.lastChild.remove();
      const pinned = box.scrollTop + box.clientHeight >= box.scrollHeight - 24;
      box.append(...wanted.slice(same).map((unit) => this.unitNode(unit)));
      this.drawn = signs;
      if (this.data.live && this.follow && pinned) box.scrollTop = box.scrollHeight;
      this.markText();
    }

    unitNode(unit) {
      const origin = unit.o[unit.o.length - 1];
      const node = make(origin === "ghost" ? "del" : "span", `ds-unit ${origin}${unit.x ? " special" : ""}`);
      const step = unit.s[unit.s.length - 1];
      if (step >= 0) node.dataset.step = String(step);
      // A line break is drawn as its sign, then as a break.
      if (!unit.x && unit.t.includes("\n")) {
        for (const part of unit.t.split(/(\n)/)) {
          if (part !== "\n") node.append(part);
          else node.append(make("span", "ds-return", "↵"), make("br"));
        }
      } else node.textContent = unit.t;
      if (origin in SIGN && origin !== "accepted") node.dataset.sign = SIGN[origin];
      const spread = unit.o.length > 1 ? `, one character out of ${unit.o.length} tokens` : "";
      node.title = step >= 0 ? `step ${step + 1}: ${origin === "ghost" ? "rejected draft" : origin}${spread}` : origin === "told" ? "the answer; which step wrote what is not told" : "prompt";
      return node;
    }

    markText() {
      const box = this.find("#text");
      // What comes later is pale; where the step is told, and may be guessed, it is not there at all.
      box.classList.toggle("ds-guess", this.guessing);
      box.classList.toggle("ds-unwritten", this.guessing || this.presenter.on || Boolean(this.playing && this.told));
      let first = null;
      let last = null;
      for (const node of box.children) {
        const step = node.dataset.step === undefined ? -1 : Number(node.dataset.step);
        const now = step === this.at;
        node.classList.toggle("now", now);
        node.classList.toggle("later", step > this.at);
        node.classList.toggle("first", now && !first);
        if (!now) continue;
        first = first || node;
        last = node;
      }
      if (!first || box.scrollHeight <= box.clientHeight) return;
      const top = first.offsetTop - box.offsetTop;
      if (this.presenter.on) {
        const end = this.guessing ? first : last;
        box.scrollTop = end.offsetTop - box.offsetTop + end.offsetHeight + 6 - box.clientHeight;
      } else if (top < box.scrollTop || top > box.scrollTop + box.clientHeight - 28) box.scrollTop = top - box.clientHeight / 2;
    }

    /** Which step is in front, and what can be done about it. */
    drawBar() {
      const { step, data } = this;
      const count = data.steps.length;
      const scrub = this.find("#step-scrub");
      scrub.max = String(Math.max(count, 1));
      scrub.value = String(this.at + 1);
      scrub.disabled = count < 2;
      scrub.setAttribute("aria-valuetext", `Step ${this.at + 1} of ${count}`);
      this.find("#step-first").disabled = this.find("#step-prev").disabled = this.at === 0;
      this.find("#step-last").disabled = this.find("#step-next").disabled = this.at >= count - 1;
      for (const name of PHASES) {
        const button = this.find(`#phase-${name}`);
        button.setAttribute("aria-checked", String(name === this.phase));
        button.tabIndex = name === this.phase ? 0 : -1;
      }
      this.root.dataset.at = String(this.at);
      const label = this.find("#step-label");
      label.replaceChildren(make("b", "", count ? `Step ${this.at + 1} of ${count}` : "No step yet"));
      if (step) label.append(make("span", "", ` ${this.summary(step)}`));
      label.title = step ? this.summary(step) : "";
    }

    drawStep(told = false) {
      this.drawBar();
      this.markText();
      this.drawLattice(told);
      if (this.presenter.on) return; // the rest is not on the screen
      this.drawBars();
      this.markFigures();
      for (const details of this.root.querySelectorAll("[data-table][open]")) this.drawTable(details);
    }

    summary(step) {
      if (!step.k && this.guessing) return "k = 0 · no draft";
      if (!step.k) return step.path.length ? `k = 0 · no draft, accepted ${step.accepted}` : "k = 0 · no draft";
      if (this.guessing) return `k = ${step.k} · what will the target accept?`;
      const tail = { correction: "then a correction", bonus: "then a bonus token" };
      const end = step.emitted.length > step.accepted ? tail[step.kind] : "ends the answer";
      return `k = ${step.k} · accepted ${step.accepted} · ${end}`;
    }

    /** told: the phase was entered just now, so that what is new in it is brought on. */
    drawLattice(told = false) {
      const box = this.find("[data-lattice]");
      const { step } = this;
      this.find("[data-story]").textContent = step ? story(this.data, step, this.phase) : "";
      const empty = (text) => {
        box.replaceChildren(make("p", "ds-empty", text));
        this.find("[data-legend]").replaceChildren();
        this.drawBeams();
        this.drawInspector();
      };
      if (!step && this.data.origin) return empty(`${this.data.origin.engine} tells only sums of this run: there are no steps to look at.`);
      if (!step) return empty(this.data.live ? "The first step is on its way: the target reads the prompt." : "The run was stopped before its first step.");
      if (!step.k && !step.path.length && this.guessing) return empty("Nothing was drafted in this step: the target writes one token itself.");
      if (!step.k && !step.path.length) return empty(`Nothing was drafted in this step: the target wrote ${step.emitted.map((id) => `“${this.label(id)}”`).join("")} itself.`);
      if (!step.detail) return empty(this.data.live ? "This step’s lattice arrives when the run ends." : "This step’s lattice was left out, to keep this page small: save the trace, and open it in the playground.");
      if (!this.cell || !this.cell.picked || !Lattice.holds(step, this.cell)) this.cell = this.defaultCell(step);

      const hadFocus = box.contains(document.activeElement);
      const scroll = box.scrollLeft;
      const { fit } = this.presenter;
      // On a low screen the target's row is to be seen without scrolling.
      const most = fit ? Lattice.rowsFitting(fit) : innerHeight < 850 ? 6 : Lattice.ROWS;
      const view = { data: this.data, step, phase: this.phase, show: this.show, story: told, most, fit };
      this.rows = Lattice.draw(box, view);
      Lattice.drawLegend(this.find("[data-legend]"), view, this.rows);
      if (scroll) box.scrollLeft = scroll;
      this.drawBeams();
      if (this.cell) this.select(this.cell.col, this.cell.rank, hadFocus);
      else this.drawInspector();
    }

    /** Where each losing beam was dropped, and by how much. */
    drawBeams() {
      const box = this.find("[data-beams]");
      const { step } = this;
      box.hidden = !this.show.beams || this.phase === "mask" || this.phase === "lattice";
      if (box.hidden) return;
      const lost = step && step.detail && step.k ? lostBeams(step) : [];
      const list = make("ol");
      for (const beam of lost) {
        const item = make("li");
        const button = make("button", "ds-beam-row");
        button.type = "button";
        button.dataset.beam = `${beam.depth},${beam.ranks[beam.depth]}`;
        const how = beam.kept === null
          ? `lost at the end, ${signed(beam.best, 1)} behind`
          : `dropped, ${signed(beam.kept, 1)} behind the last kept, ${signed(beam.best, 1)} behind the best`;
        button.append(make("b", "", `+${beam.depth + 1}`), make("span", "ds-token", beam.ids.map((id) => this.label(id)).join("")), make("span", "ds-hint", how));
        item.append(button);
        list.append(item);
      }
      const none = step && step.detail && !searched(step) ? "No search, so no beams: the draft is each column’s likeliest token." : "No beam lost in this step.";
      box.replaceChildren(make("h3", "ds-sub", `Losing beams (${lost.length})`), lost.length ? list : make("p", "ds-hint", none));
    }

    drawInspector() {
      const box = this.find("#inspector");
      const { step, cell } = this;
      const { predict } = this.presenter;
      this.find("[data-predict]").hidden = !this.presenter.on;
      if (this.presenter.on) return this.find("[data-predict]").replaceChildren(...predict());
      if (!step || !step.detail || !cell || !Lattice.holds(step, cell)) {
        box.replaceChildren(make("h2", "", "Inspector"), make("p", "ds-empty", "Pick a cell of the lattice to see its numbers and why it was accepted or rejected."), ...predict());
        return;
      }
      const f = cellFacts(this.data, step, cell.col, cell.rank);
      const parts = this.phase === "mask" ? [make("h2", "", `A masked position, +${f.col + 1}`)] : [this.cellTitle(step, f), this.cellNumbers(step, f)];
      if (this.guessing) return box.replaceChildren(...parts, ...predict());
      const why = reason(this.data, step, cell.col, cell.rank);
      const note = make("p", `ds-why ${why.tone}`);
      note.append(make("b", "", why.head), ` ${why.text}`);
      box.replaceChildren(...parts, note, ...predict(), ...this.alternatives(step, f));
    }

    cellTitle(step, f) {
      const title = make("h2", "", `“${f.label}” at +${f.col + 1} `);
      const fate = f.col < step.seen ? "accepted ✓" : f.col === step.seen ? "rejected ✗" : "not looked at";
      const searchedYet = this.phase !== "lattice";
      const status = !searchedYet ? "" : f.onPath ? (this.guessing ? "on the path" : fate) : f.kept ? "kept, not taken" : "pruned";
      title.append(make("span", "ds-hint", status));
      return title;
    }

    /** The numbers of a cell that are known in the phase in front. */
    cellNumbers(step, f) {
      const search = searched(step);
      const rowsOf = [["drafter q", f.outside ? `none: ${f.outside.from}` : f.q === null ? "not told" : `${prob(f.q)} · rank ${f.rank + 1}`]];
      if (Lattice.explained(f.label)) rowsOf.push([f.label, Lattice.explained(f.label)]);
      if (this.phase !== "lattice" && !this.data.origin) {
        rowsOf.push(
          [`proxy (${search ? PROXIES[this.data.settings.proxy] : "not used"})`, prob(f.proxy)],
          ["λ·log q + (1−λ)·log proxy", signed(f.combined)],
          ["beams through it", step.detail.levels.length ? `${f.beams} of ${f.survivors}` : "no beam"],
        );
        const lost = step.detail.levels.length ? lostBeams(step).filter((beam) => beam.depth === f.col && beam.ranks[f.col] === f.rank) : [];
        if (lost.length) rowsOf.push([lost.length === 1 ? "beam lost here by" : `${lost.length} beams lost here, best by`, signed(Math.min(...lost.map((beam) => beam.best)), 1)]);
      }
      if (!this.guessing) rowsOf.push(["target p", f.target === null ? (step.detail.server ? "not told by this server" : this.data.origin && !this.data.origin.target ? "not told" : "–") : `${prob(f.target)} · rank ${f.targetRank === null ? "> 8" : f.targetRank}`]);
      const list = make("dl", "ds-facts");
      for (const [name, value] of rowsOf) list.append(make("dt", "", name), make("dd", "", value));
      return list;
    }

    /** The target's likeliest tokens at a cell's column, where they are known. */
    alternatives(step, f) {
      if (f.col >= step.detail.topIds.length || !step.detail.topIds[f.col].length) return [];
      const box = make("div", "ds-alternatives");
      box.append(make("h3", "ds-sub", f.col <= step.seen ? "The target’s likeliest here" : "The target’s likeliest, after a rejected prefix"));
      const list = make("ol");
      step.detail.topIds[f.col].slice(0, 5).forEach((id, i) => {
        const item = make("li", id === f.id ? "this" : "");
        item.append(make("span", "ds-token", this.label(id)));
        const meter = make("i");
        const value = p(step.detail.topLogp[f.col][i]);
        meter.style.setProperty("--p", (value ?? 0).toFixed(3));
        item.append(meter, make("span", "ds-q", prob(value)));
        if (value === null) item.title = "The server did not tell its p.";
        list.append(item);
      });
      box.append(list);
      return [box];
    }

    /** Target's p of each drafted token of the step. */
    drawBars() {
      const box = this.find("[data-picture=bars]");
      const { step } = this;
      if (!step || !step.detail || !step.path.length) {
        box.replaceChildren(make("p", "ds-empty", step && !step.path.length ? "No draft in this step." : this.data.origin ? "No steps are told." : "…"));
        return;
      }
      if (this.data.origin && !this.data.origin.target) {
        box.replaceChildren(make("p", "ds-empty", `${this.data.origin.engine} does not tell the target’s p.`));
        return;
      }
      if (this.guessing) {
        box.replaceChildren(make("p", "ds-empty", "The target’s word comes in the phase “verify”."));
        return;
      }
      this.find("[data-bars-hint]").textContent = step.detail.ratios.length
        ? "the ratio each was accepted by; the line is its u, below the top: accepted"
        : step.detail.server ? serverWords(step.detail.server) : "the target’s p of each drafted token";
      const list = make("ol", "ds-bar-list");
      step.path.forEach((id, col) => {
        const fate = col < step.seen ? "accepted" : col === step.seen ? "rejected" : "unseen";
        const value = p(step.detail.pathLogp[col]);
        const item = make("li", fate);
        const ratio = step.detail.ratios[col];
        const u = step.detail.uniforms[col];
        const compared = ratio === undefined ? "" : `, ratio ${prob(ratio)}, u ${prob(u)}`;
        item.title = `+${col + 1} “${this.label(id)}”: ${value === null ? "p not told" : `p ${prob(value)}, rank ${step.detail.pathRank[col] + 1}`}${compared}, ${fate === "unseen" ? "not looked at" : fate}`;
        const well = make("i");
        const fill = make("b");
        const shown = ratio === undefined ? value : ratio;
        fill.style.height = `${(100 * shown).toFixed(1)}%`;
        well.append(fill);
        if (ratio !== undefined) {
          const line = make("s", "ds-draw");
          line.style.bottom = `${(100 * u).toFixed(1)}%`;
          well.append(line);
        }
        item.append(
          make("span", "ds-q", prob(shown)), well,
          make("span", "ds-mark", { accepted: "✓", rejected: "✗", unseen: "·" }[fate]), make("span", "ds-token", this.label(id)),
        );
        list.append(item);
      });
      box.replaceChildren(list);
    }

    /* --------------------------------------------------------------------------- figures */

    async drawFigures() {
      if (!this.data || !this.data.figures) return;
      if (this.drawing) {
        this.redraw = true;
        return;
      }
      this.drawing = true;
      this.redraw = false;
      try {
        this.Plotly = await this.options.plotly();
        for (const [name, node] of Object.entries(this.figures)) {
          // Another run may have begun meanwhile, whose first looks bring no figures.
          const { figures, colours } = this.data;
          if (!figures) return;
          const act = name === "acceptance" ? null : (point) => this.go(point.x - 1);
          await Draw.figure(this.Plotly, node, figures[name], colours, act);
        }
        if (!this.data.figures) return;
        this.describeFigures();
        this.markFigures();
      } finally {
        this.drawing = false;
      }
      if (this.redraw) this.drawFigures();
    }

    describeFigures() {
      const { steps, merits } = this.data;
      const lengths = steps.map((step) => step.k);
      const say = (name, text) => this.figures[name].setAttribute("aria-label", `${text}; the table below has the numbers`);
      say("adl", steps.length ? `Draft length over ${steps.length} steps, from ${Math.min(...lengths)} to ${Math.max(...lengths)}` : "Draft length, no step yet");
      say("acceptance", `Acceptance by position${merits.accepted_per_step === null ? "" : `; ${merits.accepted_per_step.toFixed(2)} accepted a step`}`);
      say("stages", `Milliseconds of each step by stage, ${this.data.stages.join(", ")}`);
    }

    /** Show in the figures over steps which step is in front. */
    markFigures() {
      const { step } = this;
      const known = step && !this.guessing;
      this.find("[data-adl-caption]").textContent = step && !known ? `Step ${this.at + 1}: k = ${step.k}` : step ? `Step ${this.at + 1}: ${this.data.origin ? `k ${step.k}` : `L_gen ${step.length.generated}`}, L_acc ${step.length.accepted}; ${step.length.words}.` : "";
      this.find("[data-stages-caption]").textContent = this.timesOf(step);
      for (const name of ["adl", "stages"]) {
        const node = this.figures[name];
        const layout = node._fullLayout;
        if (!this.Plotly || !layout) continue;
        let marker = node.querySelector(".ds-marker");
        if (!marker) {
          marker = make("i", "ds-marker");
          node.append(marker);
        }
        marker.hidden = !step;
        // Moved by hand: relayout would draw the whole figure again at every step.
        marker.style.left = `${layout.xaxis._offset + layout.xaxis.l2p(this.at + 1)}px`;
        marker.style.top = `${layout.yaxis._offset}px`;
        marker.style.height = `${layout.yaxis._length}px`;
        if (name !== "adl") continue;
        // Until the target has spoken, what it accepted in this step and later is covered.
        let veil = node.querySelector(".ds-veil");
        if (!veil) {
          veil = make("i", "ds-veil");
          node.append(veil);
        }
        const from = layout.xaxis._offset + layout.xaxis.l2p(this.at + 0.58);
        veil.hidden = !step || known;
        veil.style.left = `${from}px`;
        veil.style.width = `${Math.max(0, layout.xaxis._offset + layout.xaxis._length - from)}px`;
        veil.style.top = `${layout.yaxis._offset - 2}px`;
        veil.style.height = `${layout.yaxis._length + 4}px`;
      }
    }

    /** Stages whose times are told. */
    get stages() {
      return this.data.origin ? ["draft", "verify"] : this.data.stages;
    }

    /** The caption under the times: of the step in front, as far as they are told. */
    timesOf(step) {
      const { origin } = this.data;
      if (origin && !origin.times) return `${origin.engine} does not tell times of steps.`;
      if (!step) return "";
      if (origin && origin.times === "steps") return `Step ${this.at + 1}: ${step.ms.reduce((sum, ms) => sum + ms, 0).toFixed(1)} ms; stages are not told`;
      return `Step ${this.at + 1}: ${this.stages.map((name) => `${name} ${step.ms[this.data.stages.indexOf(name)].toFixed(1)}`).join(" · ")} ms`;
    }

    resize() {
      clearTimeout(this.resizing);
      this.resizing = setTimeout(() => {
        if (!this.data || !this.root.clientWidth) return;
        this.presenter.measure();
        if (!this.presenter.on) this.drawFigures();
        this.drawLattice();
      }, 120);
    }

    /* ---------------------------------------------------------------------------- tables */

    drawTable(details) {
      if (this.data) Draw.table(details, () => this.readable(this[`${details.dataset.table}Table`](), details.dataset.table));
    }

    /** A table of the step in front without what is not to be told yet. */
    readable({ head, rows }, name) {
      if (!this.guessing || !this.stepwise(name)) return { head, rows };
      const told = ["target p", "result", "rank under the target", "ratio", "u"];
      return { head, rows: rows.map((row) => row.map((value, i) => (told.includes(head[i]) ? "?" : value))) };
    }

    latticeTable() {
      const head = ["position", "rank", "token", "q", "kept", "path", "proxy", "λ·log q + (1−λ)·log proxy", "target p", "result"];
      const { step } = this;
      if (!step || !step.detail) return { head, rows: [] };
      const rows = [];
      for (let col = 0; col < step.k; col++) {
        for (let rank = 0; rank < step.detail.ids[col].length; rank++) {
          const f = cellFacts(this.data, step, col, rank);
          const fate = !f.onPath ? "" : col < step.seen ? "accepted" : col === step.seen ? "rejected" : "not looked at";
          rows.push([`+${col + 1}`, rank + 1, f.label, Draw.number(f.q, prob), f.kept ? "yes" : "pruned", f.onPath ? "yes" : "", Draw.number(f.proxy, prob), Draw.number(f.combined, signed), Draw.number(f.target, prob), fate]);
        }
      }
      return { head, rows };
    }

    beamsTable() {
      const { step } = this;
      const lost = step && step.detail && step.k ? lostBeams(step) : [];
      return {
        head: ["dropped at", "tokens", "score", "behind the last kept", "behind the best"],
        rows: lost.map((beam) => [`+${beam.depth + 1}`, beam.ids.map((id) => this.label(id)).join(""), Draw.number(beam.score, signed), Draw.number(beam.kept, signed), Draw.number(beam.best, signed)]),
      };
    }

    adlTable() {
      return {
        head: ["step", "k", "L_gen", "L_acc", "EMA_gen", "EMA_acc", "wanted", "next k", "decided by"],
        rows: this.data.steps.map(({ i, k, length: l }) => this.data.origin ? [i + 1, k, "", l.accepted, "", "", "", "", l.decided] : [i + 1, k, l.generated, l.accepted, l.ema_gen, l.ema_acc, l.wanted, l.next_k, l.decided]),
      };
    }

    stagesTable() {
      const staged = !this.data.origin || this.data.origin.times === "stages";
      return { head: ["step", ...this.data.stages.map((name) => `${name} ms`)], rows: this.data.steps.map(({ i, ms }) => [i + 1, ...this.data.stages.map((_, at) => (staged && this.stages.includes(this.data.stages[at]) ? ms[at] : ""))]) };
    }

    acceptanceTable() {
      const { steps, origin, merits } = this.data;
      const sums = origin && origin.reached;
      const longest = sums ? sums.length : Math.max(0, ...steps.map((step) => step.k));
      const rows = Array.from({ length: longest }, (_, place) => {
        const count = sums ? sums[place] : steps.filter((step) => step.accepted > place).length;
        return [`+${place + 1}`, count, `${((100 * count) / (sums ? merits.steps : steps.length)).toFixed(0)} %`];
      });
      return { head: ["position", "steps that reach it", "share"], rows };
    }

    barsTable() {
      const { step } = this;
      const path = step && step.detail ? step.path : [];
      return {
        head: ["position", "drafted", "target p", "rank under the target", "ratio", "u", "result"],
        rows: path.map((id, col) => [
          `+${col + 1}`, this.label(id), prob(p(step.detail.pathLogp[col])), step.detail.pathRank[col] < 0 ? "–" : step.detail.pathRank[col] + 1,
          prob(step.detail.ratios[col]), prob(step.detail.uniforms[col]),
          col < step.seen ? "accepted" : col === step.seen ? "rejected" : "not looked at",
        ]),
      };
    }

    destroy() {
      this.lifetime.abort();
    }
  }

  return { mount: (root, options) => new Player(root, options) };
})();
