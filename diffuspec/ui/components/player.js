/* The player: draws one trace payload (diffuspec/ui/views/payload.py) and steps through it.

   No framework, no request, no Gradio: mount(root, {plotly}) returns {update(json)}. `plotly` is a
   function that gives a promise of the Plotly object. Token text is untrusted: it reaches the page
   through textContent only. */
const DiffuSpecPlayer = (() => {
  "use strict";

  const PHASES = ["mask", "lattice", "search", "verify", "commit"];
  const PHASE_HINT = {
    mask: "k masked positions after the prefix, to be filled in one drafter pass",
    lattice: "what the drafter proposes: columns are positions, rows its ranking, shade its q",
    search: "faded: pruned · outlined: the path the search chose",
    verify: "✓ accepted · ✗ rejected · row p: the target’s own token",
    commit: "the tokens this step adds to the text",
  };
  const STAGES = ["draft", "search", "verify", "commit", "record"];
  const ROWS = 8;
  const PLAY_MS = 900;
  const SIGN = { accepted: "✓", correction: "↺", bonus: "+" };

  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const svg = (tag, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  const p = (logp) => (logp === null || logp === undefined ? null : Math.exp(logp));
  const prob = (value) => {
    if (value === null || value === undefined) return "–";
    if (value > 0 && value < 0.005) return value < 0.0005 ? "<0.001" : value.toFixed(3);
    return value.toFixed(2);
  };
  /** "p = 0.81", "p < 0.001" */
  const is = (name, value) => (prob(value).startsWith("<") ? `${name} < ${prob(value).slice(1)}` : `${name} = ${prob(value)}`);
  const signed = (value, digits = 2) => (value === null ? "–" : value.toFixed(digits).replace("-", "−"));
  const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

  /* ------------------------------------------------------------ what happened to one cell */

  /** Everything known about row `rank` of column `col` (both 0-based) of a step with detail. */
  function cellFacts(data, step, col, rank) {
    const d = step.detail;
    const lam = data.settings.lam;
    const n = step.path.length;
    const id = d.ids[col][rank];
    const q = d.logq[col][rank];
    const proxy = col < n ? d.proxy[col][rank] : null;
    const combined = d.method === "cps" && proxy !== null ? lam * q + (1 - lam) * proxy : null;
    const onPath = col < n && d.ranks[col] === rank;
    const level = d.levels[col];
    let beams = 0;
    if (level) for (let i = 0; i < level.survivors; i++) if (level.rank[i] === rank) beams++;
    const target = col < n ? d.cellLogp[col][rank] : null;
    let targetRank = null;
    if (onPath) targetRank = d.pathRank[col] + 1;
    else if (col < d.topIds.length) {
      const at = d.topIds[col].indexOf(id);
      targetRank = at < 0 ? null : at + 1;
    }
    const before = d.logq[col].slice(0, rank).reduce((sum, value) => sum + Math.exp(value), 0);
    return {
      id, label: data.labels[id], col, rank, q: p(q), logq: q, proxy: p(proxy), combined, onPath, beams,
      survivors: level ? level.survivors : 0, target: p(target), targetRank, before,
      kept: Boolean(d.kept[col][rank]), choice: col < d.draws.length ? d.draws[col] : null,
    };
  }

  /** Target's probability of token `id` at column `col`, where it is known. */
  function targetP(step, col, id) {
    const d = step.detail;
    const top = d.topIds[col] ? d.topIds[col].indexOf(id) : -1;
    if (top >= 0) return p(d.topLogp[col][top]);
    const rank = col < d.ids.length ? d.ids[col].indexOf(id) : -1;
    return rank >= 0 && col < d.cellLogp.length ? p(d.cellLogp[col][rank]) : null;
  }

  const pruning = (facts, settings) =>
    facts.rank >= settings.m_max
      ? `it is rank ${facts.rank + 1}, and a column keeps M_max = ${settings.m_max} at most`
      : `the ${plural(facts.rank, "likelier token")} already held ${prob(facts.before)} ≥ τ = ${prob(settings.tau)}`;

  /** {tone, head, text}: in one or two sentences with the numbers filled in, why a cell fared as it did. */
  function reason(data, step, col, rank) {
    const d = step.detail;
    const f = cellFacts(data, step, col, rank);
    const { settings } = data;
    const n = step.path.length;
    const seen = step.seen;
    const sampled = settings.temperature > 0;
    const quote = (id) => `“${data.labels[id]}”`;
    const known = (value) => (value === null ? "" : ` (${is("p", value)})`);
    const own = sampled ? "The target drew" : "The target’s own choice here is";

    if (col >= n) {
      return {
        tone: "unseen", head: "Why not sent?",
        text: `The path ended at +${n} with the stop token ${quote(step.path[n - 1])}, so nothing at +${col + 1} was sent to the target.`,
      };
    }
    if (f.onPath && col < seen) {
      const how = sampled ? "The target drew this very token" : "The target’s own choice here is this very token";
      const next = col === seen - 1 && seen === n && step.token !== null
        ? " It was the last of the draft, so the target adds a bonus token." : "";
      return { tone: "accepted", head: "Why accepted?", text: `${how} (${is("p", f.target)}); the drafter gave it ${is("q", f.q)}, rank ${rank + 1}.${next}` };
    }
    if (col > seen) {
      const why = f.onPath ? "it followed a rejected token" : `even the path’s ${quote(step.path[col])} was not judged`;
      return { tone: "unseen", head: "Why not looked at?", text: `The target stopped looking at +${seen + 1}, where it refused ${quote(step.path[seen])}: ${why}. Its p here belongs to a prefix that was thrown away.` };
    }
    if (f.onPath) return rejection(data, step, f, own, quote, known);
    return passedOver(data, step, f, own, quote, known);
  }

  function rejection(data, step, f, own, quote, known) {
    const d = step.detail;
    const { settings } = data;
    const right = f.choice;
    const head = "Why rejected?";
    const said = `${own} ${quote(right)}${known(targetP(step, f.col, right))}, not ${quote(f.id)}${known(f.target)}.`;
    const rank = d.ids[f.col].indexOf(right);
    if (rank < 0) {
      return { tone: "rejected", head, text: `${said} It is not among the drafter’s ${d.ids[f.col].length} candidates: a drafter miss, no search could have found it.` };
    }
    const g = cellFacts(data, step, f.col, rank);
    const place = `It was in the lattice at rank ${rank + 1} (${is("q", g.q)})`;
    if (!g.kept) {
      return { tone: "rejected", head, text: `${said} ${place}, but was pruned: ${pruning(g, settings)}. A pruning miss, not a drafter miss.` };
    }
    if (d.method !== "cps") {
      return { tone: "rejected", head, text: `${said} ${place}, but the argmax draft takes each column’s likeliest token, ${quote(f.id)} (${is("q", f.q)}), and never looks at the others: a search miss, not a drafter miss.` };
    }
    if (g.combined === null || f.combined === null) {
      return { tone: "rejected", head, text: `${said} ${place}, but the search went another way: a search miss, not a drafter miss.` };
    }
    const gap = f.combined - g.combined;
    if (gap >= 0) {
      return { tone: "rejected", head, text: `${said} ${place}, but the search preferred ${quote(f.id)} by ${signed(gap, 1)}: a search miss, not a drafter miss.` };
    }
    return { tone: "rejected", head, text: `${said} ${place} and even scored ${signed(-gap, 1)} better at this position, but what followed it scored worse over the rest of the draft: a search miss, not a drafter miss.` };
  }

  function passedOver(data, step, f, own, quote, known) {
    const d = step.detail;
    const { settings } = data;
    const pathId = step.path[f.col];
    const wanted = f.id === f.choice;
    const lead = wanted ? `${own} exactly this token${known(f.target)}. ` : "";
    const head = "Why not on the path?";
    const tone = wanted ? "missed" : "unseen";
    if (!f.kept) return { tone, head: "Why pruned?", text: `${lead}Pruned: ${pruning(f, settings)} (${is("q", f.q)}).` };
    if (d.method !== "cps") {
      return { tone, head, text: `${lead}The argmax draft takes each column’s likeliest token, ${quote(pathId)}; this one is rank ${f.rank + 1} (${is("q", f.q)}).` };
    }
    const chosen = cellFacts(data, step, f.col, d.ranks[f.col]);
    if (f.combined === null) return { tone, head, text: `${lead}The search did not score it after the chosen path.` };
    const gap = chosen.combined - f.combined;
    const verdict = gap >= 0
      ? `Here it scores ${signed(gap, 1)} below ${quote(pathId)}, which the search took`
      : `Here it scores ${signed(-gap, 1)} above ${quote(pathId)}, but every path through it lost later`;
    const reach = f.beams ? `; ${f.beams} of ${f.survivors} beams went through it` : `; none of the ${f.survivors} beams kept it`;
    return { tone, head, text: `${lead}${verdict} (q ${prob(f.q)} against ${prob(chosen.q)}, proxy ${prob(f.proxy)} against ${prob(chosen.proxy)})${reach}.` };
  }

  /** Cell to look at first: the first rejected one, else the last accepted. */
  function defaultCell(step) {
    if (!step.detail || !step.path.length) return null;
    const col = Math.min(step.seen, step.path.length - 1);
    return { col, rank: step.detail.ranks[col] };
  }

  /* ------------------------------------------------------------------------- the player */

  class Player {
    constructor(root, options) {
      this.root = root;
      this.options = options;
      this.data = null;
      this.at = 0;
      this.phase = "verify";
      this.cell = null;
      this.follow = true;
      this.timer = null;
      this.show = { prompt: false, ghosts: false, argmax: false, oracle: false, beams: false, rows: false };
      this.find = (selector) => root.querySelector(selector);
      this.figures = { adl: this.find("[data-figure=adl]"), acceptance: this.find("[data-figure=acceptance]") };
      this.lifetime = new AbortController();
      this.wire();
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
      click("#step-play", () => this.play(!this.timer));
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
        button.title = `${name} (${number + 1})`;
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
        if (cell) this.select(Number(cell.dataset.col), Number(cell.dataset.rank));
      });
      this.on(lattice, "keydown", (event) => this.latticeKey(event));
      this.on(document, "keydown", (event) => this.key(event));
      for (const details of this.root.querySelectorAll("[data-table]")) {
        this.on(details, "toggle", () => this.drawTable(details));
      }
      const theme = new MutationObserver(() => this.drawFigures());
      for (const node of [document.documentElement, document.body]) {
        theme.observe(node, { attributes: true, attributeFilter: ["class"] });
      }
      const size = new ResizeObserver(() => this.resize());
      size.observe(this.root);
      this.lifetime.signal.addEventListener("abort", () => {
        theme.disconnect();
        size.disconnect();
        this.play(false);
      });
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
        this.cell = null;
        this.drawn = [];
        this.find("#text").replaceChildren();
      } else {
        next.labels = Object.assign(this.data.labels, next.labels);
        next.steps.forEach((step, i) => {
          if (!step.detail && this.data.steps[i]) step.detail = this.data.steps[i].detail;
        });
      }
      this.data = next;
      const before = this.at;
      if (this.follow || this.at >= next.steps.length) this.at = this.lastDraft();
      if (fresh && !next.live) this.at = this.tellingStep();
      if (this.at !== before) this.cell = null;
      if (!next.live) this.follow = false;
      this.drawMerits();
      this.drawText();
      this.drawFigures();
      this.drawStep();
    }

    /** A step worth opening with: the first where the search could have done better, else one cut short. */
    tellingStep() {
      const { steps } = this.data;
      const cut = (s) => s.path.length > 1 && s.seen > 0 && s.seen < s.path.length;
      let found = steps.findIndex((s) => cut(s) && s.oracle > s.accepted);
      if (found < 0) found = steps.findIndex(cut);
      return Math.max(found, 0);
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

    go(index) {
      if (!this.data || !this.data.steps.length) return;
      const last = this.data.steps.length - 1;
      const to = Math.min(Math.max(index, 0), last);
      this.follow = this.data.live && to === last;
      if (to === this.at) return;
      this.at = to;
      this.cell = null;
      this.drawStep();
    }

    play(on) {
      clearInterval(this.timer);
      this.timer = null;
      const button = this.find("#step-play");
      if (on && this.data && this.data.steps.length) {
        if (this.at === this.data.steps.length - 1) this.go(0);
        this.timer = setInterval(() => {
          this.go(this.at + 1);
          if (this.at === this.data.steps.length - 1 && !this.data.live) this.play(false);
        }, PLAY_MS);
      }
      button.textContent = this.timer ? "⏸ pause" : "▶ play";
      button.setAttribute("aria-pressed", String(Boolean(this.timer)));
    }

    toggle(name, button) {
      this.show[name] = !this.show[name];
      button.setAttribute("aria-pressed", String(this.show[name]));
      if (name === "prompt" || name === "ghosts") {
        this.drawn = [];
        this.find("#text").replaceChildren();
        this.drawText();
        this.markText();
      } else this.drawLattice();
    }

    setPhase(name) {
      this.phase = name;
      this.drawStep();
    }

    select(col, rank, focus = false) {
      this.cell = { col, rank };
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
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
      const from = event.target;
      if (from.closest && from.closest("input:not(.ds-scrub), textarea, select, [contenteditable], [role=listbox], [role=dialog]")) return;
      const steps = { ArrowLeft: -1, ArrowRight: 1 };
      if (event.key in steps) this.go(this.at + steps[event.key]);
      else if (event.key === "Home") this.go(0);
      else if (event.key === "End") this.go(Infinity);
      else if (event.key === " " && !(from.closest && from.closest("button, a, summary, label"))) this.play(!this.timer);
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
        const rows = this.phase === "mask" ? [0] : this.rowsOf(this.step);
        col += move[0];
        rank = rows[rows.indexOf(rank) + move[1]];
      } else if (event.key === "Home") col = 0;
      else if (event.key === "End") col = this.step.k - 1;
      else if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      event.stopPropagation();
      if (this.find(`[data-lattice] [data-col="${col}"][data-rank="${rank}"]`)) this.select(col, rank, true);
    }

    /* --------------------------------------------------------------------------- drawing */

    label(id) {
      return this.data.labels[id] ?? `⟨${id}⟩`;
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
      this.find("[data-mat=tokens]").textContent = m.tokens_per_step.toFixed(2);
      this.find("[data-mat=accepted]").textContent = m.accepted_per_step.toFixed(2);
      this.find("[data-merit=mat]").title =
        "Mean accepted tokens, two conventions: tokens/step counts the correction or bonus, accepted/step (the paper’s Eq. 2) does not.";
      card("speedup", m.speedup === null ? (waiting ? "…" : "–") : `${m.speedup.toFixed(2)}×`, `over plain AR, ${here}`,
        "Tokens per second over plain AR decoding by the same target, dtype, kernels and cache, prefill included.");
      const ar = m.ar_tokens_per_second;
      card("rate", m.tokens_per_second.toFixed(1), `tokens/s · plain AR ${ar === null ? (waiting ? "…" : "–") : ar.toFixed(1)}`);
      const verdict = card("verdict", m.verdict.headline, m.verdict.detail, m.verdict.detail);
      verdict.dataset.state = m.verdict.state;

      const total = Math.max(STAGES.reduce((sum, name) => sum + m.stage_ms[name], 0), 1e-9);
      const bar = this.find(".ds-stages");
      bar.replaceChildren(...STAGES.map((name) => {
        const part = make("i", `ds-stage-${name}`);
        part.style.flexGrow = String(m.stage_ms[name] / total);
        part.title = `${name}: ${m.stage_ms[name].toFixed(0)} ms`;
        return part;
      }));
      const percent = (name) => `${name} ${((100 * m.stage_ms[name]) / total).toFixed(0)}`;
      bar.setAttribute("aria-label", `Time by stage in percent: ${STAGES.map(percent).join(", ")}`);
      const note = this.find("[data-merit=stages] .ds-note");
      note.replaceChildren(...STAGES.map((name) => make("span", `ds-key ds-stage-${name}`, percent(name))), document.createTextNode("%"));

      const badge = this.find("[data-badge]");
      badge.textContent = m.provenance.badge;
      badge.title = m.provenance.title;
      this.find("[data-run]").textContent = this.data.live
        ? `${plural(m.new_tokens, "token")} of ${m.budget} …`
        : `${plural(m.new_tokens, "token")} in ${plural(this.data.steps.length, "step")}, ${m.wall_s.toFixed(1)} s · ended by ${m.stop_reason === "stopped" ? "you" : m.stop_reason}`;
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
      const sign = (unit) => `${unit.t}|${unit.s.join()}|${unit.o.join()}`;
      const signs = wanted.map(sign);
      let same = 0;
      while (same < signs.length && signs[same] === this.drawn[same]) same++;
      while (box.children.length > same) box.lastChild.remove();
      const pinned = box.scrollTop + box.clientHeight >= box.scrollHeight - 24;
      box.append(...wanted.slice(same).map((unit) => this.unitNode(unit)));
      this.drawn = signs;
      if (this.data.live && this.follow && pinned) box.scrollTop = box.scrollHeight;
      if (!wanted.length) return;
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
      node.title = step >= 0 ? `step ${step + 1}: ${origin === "ghost" ? "rejected draft" : origin}${spread}` : "prompt";
      return node;
    }

    markText() {
      const box = this.find("#text");
      for (const node of box.querySelectorAll(".now")) node.classList.remove("now");
      let first = null;
      for (const node of box.querySelectorAll(`[data-step="${this.at}"]`)) {
        node.classList.add("now");
        first = first || node;
      }
      if (!first || box.scrollHeight <= box.clientHeight) return;
      const top = first.offsetTop - box.offsetTop;
      if (top < box.scrollTop || top > box.scrollTop + box.clientHeight - 28) box.scrollTop = top - box.clientHeight / 2;
    }

    drawStep() {
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
      const label = this.find("#step-label");
      label.replaceChildren(make("b", "", count ? `Step ${this.at + 1} of ${count}` : "No step yet"));
      if (step) label.append(` ${this.summary(step)}`);
      this.markText();
      this.drawLattice();
      this.drawBars();
      this.markFigures();
      for (const details of this.root.querySelectorAll("[data-table][open]")) this.drawTable(details);
    }

    summary(step) {
      if (!step.k) return "k = 0 · no draft, only one token of the budget was left";
      const tail = { correction: "then the target’s correction", bonus: "then the target’s bonus token" };
      const end = step.emitted.length > step.accepted ? tail[step.kind] : "ends the answer";
      return `k = ${step.k} · accepted ${step.accepted} · ${end}`;
    }

    /** Ranks drawn as rows: ROWS of them unless all are asked for; the path and the right token among them. */
    rowsOf(step) {
      const d = step.detail;
      const all = d.ids[0].length;
      if (this.show.rows || all <= ROWS) return Array.from({ length: all }, (_, rank) => rank);
      const needed = new Set(d.ranks);
      if (step.seen < step.path.length) needed.add(d.ids[step.seen].indexOf(d.draws[step.seen]));
      needed.delete(-1);
      for (let rank = 0; needed.size < ROWS; rank++) needed.add(rank);
      return [...needed].sort((x, y) => x - y);
    }

    drawLattice() {
      const box = this.find("[data-lattice]");
      const { step } = this;
      this.find("[data-lattice-hint]").textContent = PHASE_HINT[this.phase];
      const empty = (text) => {
        box.replaceChildren(make("p", "ds-empty", text));
        this.drawInspector();
      };
      if (!step) return empty(this.data.live ? "The first step is on its way: the target reads the prompt." : "The run was stopped before its first step.");
      if (!step.k) return empty(`No draft in this step: one token of the budget was left, and the target wrote ${step.emitted.map((id) => `“${this.label(id)}”`).join("")} itself.`);
      if (!step.detail) return empty("This step’s lattice arrives when the run ends.");
      if (!this.cell || this.cell.col >= step.k) this.cell = defaultCell(step);

      const hadFocus = box.contains(document.activeElement);
      const scroll = box.scrollLeft;
      const rows = this.rowsOf(step);
      const grid = make("div", `ds-grid phase-${this.phase}`);
      grid.setAttribute("role", "grid");
      grid.setAttribute("aria-label", `Token lattice of step ${this.at + 1}: ${step.k} positions, ${rows.length} ranks`);
      grid.style.setProperty("--k", String(step.k + 1));
      const row = (className = "") => {
        const node = make("div", `ds-row ${className}`);
        node.setAttribute("role", "row");
        grid.append(node);
        return node;
      };
      const head = row("ds-row-head");
      const corner = make("span", "ds-rank", "");
      corner.setAttribute("role", "columnheader");
      corner.setAttribute("aria-label", "rank");
      head.append(corner);
      for (let col = 0; col <= step.k; col++) {
        const extra = col === step.k && !(step.kind === "bonus" && step.seen === step.k);
        const node = make("span", "ds-position", extra ? "" : `+${col + 1}`);
        node.setAttribute("role", "columnheader");
        head.append(node);
      }
      const oracle = this.show.oracle ? this.oraclePath(step) : [];
      rows.forEach((rank, place) => {
        const line = row(place && rank > rows[place - 1] + 1 ? "ds-row-jump" : "");
        line.append(this.rowHeader(this.phase === "mask" ? (rank ? "" : "?") : String(rank + 1)));
        for (let col = 0; col < step.k; col++) line.append(this.latticeCell(step, col, rank, oracle));
        line.append(make("span", "ds-gap"));
      });
      if (this.phase === "verify" || this.phase === "commit") this.targetRow(step, row("ds-row-target"));
      if (this.phase === "commit") this.commitRow(step, row("ds-row-commit"));
      box.style.setProperty("--rows", String(Math.max(rows.length, ROWS)));
      box.replaceChildren(grid);
      if (this.phase !== "mask" && this.phase !== "lattice") this.drawLinks(grid, step, oracle);
      box.scrollLeft = scroll;
      if (this.cell) this.select(this.cell.col, this.cell.rank, hadFocus);
      else this.drawInspector();
    }

    rowHeader(text) {
      const node = make("span", "ds-rank", text);
      node.setAttribute("role", "rowheader");
      return node;
    }

    latticeCell(step, col, rank, oracle) {
      const d = step.detail;
      const node = make("span", "ds-cell");
      node.setAttribute("role", "gridcell");
      node.setAttribute("aria-selected", "false");
      node.tabIndex = -1;
      node.dataset.col = String(col);
      node.dataset.rank = String(rank);
      if (this.phase === "mask") {
        node.classList.add(rank ? "hidden" : "masked");
        node.textContent = rank ? "" : "mask";
        if (rank) {
          delete node.dataset.col;
          node.removeAttribute("tabindex");
        }
        return node;
      }
      const q = Math.exp(d.logq[col][rank]);
      const label = this.label(d.ids[col][rank]);
      node.style.setProperty("--q", q.toFixed(3));
      node.append(make("span", "ds-token", label), make("span", "ds-q", prob(q)));
      const facts = [`“${label}”`, `+${col + 1}`, `rank ${rank + 1}`, `q ${prob(q)}`];
      if (this.phase !== "lattice") {
        if (!d.kept[col][rank]) {
          node.classList.add("pruned");
          facts.push("pruned");
        }
        if (d.ranks[col] === rank && col < step.path.length) {
          node.classList.add("path");
          facts.push("on the path");
          if (this.phase !== "search") {
            const fate = col < step.seen ? "accepted" : col === step.seen ? "rejected" : "unseen";
            node.classList.add(fate);
            node.append(make("span", "ds-mark", { accepted: "✓", rejected: "✗", unseen: "" }[fate]));
            facts.push(fate === "unseen" ? "not looked at" : fate);
          }
        }
        if (this.show.argmax && rank === 0 && col < this.argmaxLength(step)) node.classList.add("argmax");
        if (oracle[col] === rank) node.classList.add("oracle");
      }
      node.title = facts.join(" · ");
      node.setAttribute("aria-label", facts.join(", "));
      return node;
    }

    argmaxLength(step) {
      const end = step.detail.ids.findIndex((column) => this.data.stops.includes(column[0]));
      return end < 0 ? step.k : end + 1;
    }

    /** Ranks of the kept cells that equal what the answer went on to say, up to the first that is missing. */
    oraclePath(step) {
      return Array.from({ length: step.oracle }, (_, col) => step.detail.ids[col].indexOf(this.answer()[step.start + col]));
    }

    answer() {
      return this.data.steps.flatMap((step) => step.emitted);
    }

    targetRow(step, line) {
      const d = step.detail;
      line.append(this.rowHeader("p"));
      for (let col = 0; col <= step.k; col++) {
        const looked = col < d.draws.length;
        const id = looked ? d.draws[col] : d.topIds[col] ? d.topIds[col][0] : undefined;
        if (id === undefined || (col === step.k && !looked)) {
          line.append(make("span", "ds-gap"));
          continue;
        }
        const fate = !looked ? "unseen" : col < step.seen ? "accepted" : step.kind || "accepted";
        const node = make("span", `ds-cell ds-target ${fate}`);
        node.setAttribute("role", "gridcell");
        const value = targetP(step, col, id);
        node.append(make("span", "ds-token", this.label(id)), make("span", "ds-q", prob(value)));
        if (looked && col >= step.seen && step.kind) node.append(make("span", "ds-mark", SIGN[step.kind]));
        node.title = looked
          ? `the target’s own token at +${col + 1}: “${this.label(id)}”, p ${prob(value)}${fate === "accepted" ? "" : `, ${fate}`}`
          : `not looked at: after the rejected prefix the target would say “${this.label(id)}”`;
        line.append(node);
      }
    }

    commitRow(step, line) {
      line.append(this.rowHeader("out"));
      for (let col = 0; col <= step.k; col++) {
        if (col >= step.emitted.length) {
          line.append(make("span", "ds-gap"));
          continue;
        }
        const origin = col < step.accepted ? "accepted" : step.kind || "accepted";
        const node = make("span", `ds-cell ds-out ${origin}`);
        node.setAttribute("role", "gridcell");
        node.append(make("span", "ds-token", this.label(step.emitted[col])), make("span", "ds-mark", SIGN[origin]));
        node.title = `added to the text: “${this.label(step.emitted[col])}”, ${origin}`;
        line.append(node);
      }
    }

    /** Lines between neighbouring columns: the chosen path, and on demand the others. */
    drawLinks(grid, step, oracle) {
      const d = step.detail;
      const cells = new Map();
      for (const node of grid.querySelectorAll("[data-col]")) cells.set(`${node.dataset.col},${node.dataset.rank}`, node);
      const layer = svg("svg", { class: "ds-links", "aria-hidden": "true", width: grid.scrollWidth, height: grid.scrollHeight });
      const link = (col, from, to, kind) => {
        const a = cells.get(`${col},${from}`);
        const b = cells.get(`${col + 1},${to}`);
        if (!a || !b) return;
        const x0 = a.offsetLeft + a.offsetWidth;
        const x1 = b.offsetLeft;
        const y0 = a.offsetTop + a.offsetHeight / 2;
        const y1 = b.offsetTop + b.offsetHeight / 2;
        const mid = (x0 + x1) / 2;
        layer.append(svg("path", { class: `ds-link ${kind}`, d: `M${x0} ${y0}C${mid} ${y0} ${mid} ${y1} ${x1} ${y1}` }));
      };
      if (this.show.beams) this.linkBeams(step, cells, link);
      if (this.show.argmax) for (let col = 0; col + 1 < this.argmaxLength(step); col++) link(col, 0, 0, "argmax");
      for (let col = 0; col + 1 < oracle.length; col++) link(col, oracle[col], oracle[col + 1], "oracle");
      for (let col = 0; col + 1 < step.path.length; col++) {
        const broken = this.phase !== "search" && col + 1 > step.seen;
        link(col, d.ranks[col], d.ranks[col + 1], broken ? "path broken" : "path");
      }
      grid.append(layer);
    }

    linkBeams(step, cells, link) {
      const { levels } = step.detail;
      levels.forEach((level, depth) => {
        for (let i = 0; i < level.rank.length; i++) {
          const lost = i >= level.survivors;
          const cell = cells.get(`${depth},${level.rank[i]}`);
          if (cell && !cell.classList.contains("path")) {
            cell.classList.add(lost ? "beam-lost" : "beam");
            if (!cell.dataset.beam) {
              cell.dataset.beam = lost ? "lost" : "alive";
              const gap = level.score[0] - level.score[i];
              cell.title += lost ? ` · a path through it was dropped here, ${signed(gap, 1)} behind the best` : " · a beam goes through it";
            }
          }
          if (depth) link(depth - 1, levels[depth - 1].rank[level.parent[i]], level.rank[i], lost ? "beam lost" : "beam");
        }
      });
    }

    drawInspector() {
      const box = this.find("#inspector");
      const { step, cell } = this;
      if (!step || !step.detail || !cell || cell.col >= step.k) {
        box.replaceChildren(make("h2", "", "Inspector"), make("p", "ds-empty", "Pick a cell of the lattice to see its numbers and why it was accepted or rejected."));
        return;
      }
      const f = cellFacts(this.data, step, cell.col, cell.rank);
      const why = reason(this.data, step, cell.col, cell.rank);
      const title = make("h2", "", `“${f.label}” at +${f.col + 1} `);
      const status = f.onPath ? (f.col < step.seen ? "accepted ✓" : f.col === step.seen ? "rejected ✗" : "not looked at") : f.kept ? "kept, not taken" : "pruned";
      title.append(make("span", "ds-hint", status));
      const proxyName = { ngram: "3-gram", "ngram+context": "3-gram + context", context: "3-gram of this text", none: "no proxy" }[this.data.settings.proxy];
      const rowsOf = [
        ["drafter q", `${prob(f.q)} · rank ${f.rank + 1}`],
        [`proxy p (${step.detail.method === "cps" ? proxyName : "not used"})`, prob(f.proxy)],
        ["λ·log q + (1−λ)·log p", signed(f.combined)],
        ["beams through it", step.detail.method === "cps" ? `${f.beams} of ${f.survivors}` : "no search"],
        ["target p", f.target === null ? "–" : `${prob(f.target)} · rank ${f.targetRank === null ? "> 8" : f.targetRank}`],
      ];
      const list = make("dl", "ds-facts");
      for (const [name, value] of rowsOf) list.append(make("dt", "", name), make("dd", "", value));
      const note = make("p", `ds-why ${why.tone}`);
      note.append(make("b", "", why.head), ` ${why.text}`);
      const parts = [title, list, note];
      if (f.col < step.detail.topIds.length) {
        const looked = f.col <= step.seen;
        const box2 = make("div", "ds-alternatives");
        box2.append(make("h3", "ds-sub", looked ? "The target’s likeliest here" : "The target’s likeliest, after a rejected prefix"));
        const ol = make("ol");
        step.detail.topIds[f.col].slice(0, 5).forEach((id, i) => {
          const li = make("li", id === f.id ? "this" : "");
          li.append(make("span", "ds-token", this.label(id)));
          const meter = make("i");
          const value = p(step.detail.topLogp[f.col][i]);
          meter.style.setProperty("--p", value.toFixed(3));
          li.append(meter, make("span", "ds-q", prob(value)));
          ol.append(li);
        });
        box2.append(ol);
        parts.push(box2);
      }
      box.replaceChildren(...parts);
    }

    /** Target's p of each drafted token of the step. */
    drawBars() {
      const box = this.find("[data-bars]");
      const { step } = this;
      if (!step || !step.detail || !step.path.length) {
        box.replaceChildren(make("p", "ds-empty", step && !step.k ? "No draft in this step." : "…"));
        return;
      }
      const list = make("ol", "ds-bar-list");
      step.path.forEach((id, col) => {
        const fate = col < step.seen ? "accepted" : col === step.seen ? "rejected" : "unseen";
        const value = p(step.detail.pathLogp[col]);
        const item = make("li", fate);
        item.style.setProperty("--p", value.toFixed(3));
        item.title = `+${col + 1} “${this.label(id)}”: p ${prob(value)}, rank ${step.detail.pathRank[col] + 1}, ${fate === "unseen" ? "not looked at" : fate}`;
        item.append(
          make("span", "ds-q", prob(value)), make("i"),
          make("span", "ds-mark", { accepted: "✓", rejected: "✗", unseen: "·" }[fate]), make("span", "ds-token", this.label(id)),
        );
        list.append(item);
      });
      box.replaceChildren(list);
    }

    /* --------------------------------------------------------------------------- figures */

    themed(figure) {
      const style = getComputedStyle(this.root);
      let text = JSON.stringify(figure);
      for (const [name, colour] of Object.entries(this.data.colours)) {
        text = text.replaceAll(`"${colour}"`, `"${style.getPropertyValue(`--ds-${name}`).trim() || colour}"`);
      }
      return JSON.parse(text);
    }

    async drawFigures() {
      if (!this.data || this.drawing) {
        this.redraw = Boolean(this.data);
        return;
      }
      this.drawing = true;
      try {
        const Plotly = await this.options.plotly();
        for (const [name, node] of Object.entries(this.figures)) {
          const { data, layout } = this.themed(this.data.figures[name]);
          layout.font = { ...layout.font, family: getComputedStyle(this.root).fontFamily };
          layout.width = node.clientWidth || undefined;
          this.rails = name === "adl" ? layout.shapes || [] : this.rails;
          await Plotly.react(node, data, layout, { displayModeBar: false, responsive: false, scrollZoom: false });
          if (!node.dataset.ready) {
            node.dataset.ready = "yes";
            node.on("plotly_click", (event) => {
              if (name === "adl") this.go(event.points[0].x - 1);
            });
          }
        }
        this.Plotly = Plotly;
        this.describeFigures();
        this.markFigures();
      } finally {
        this.drawing = false;
      }
      if (this.redraw) {
        this.redraw = false;
        this.drawFigures();
      }
    }

    describeFigures() {
      const { steps, merits } = this.data;
      const lengths = steps.map((step) => step.k);
      this.figures.adl.setAttribute("aria-label", steps.length
        ? `Draft length over ${steps.length} steps, from ${Math.min(...lengths)} to ${Math.max(...lengths)}; the table below has the numbers`
        : "Draft length, no step yet");
      this.figures.acceptance.setAttribute("aria-label", `Acceptance by position; ${merits.accepted_per_step.toFixed(2)} accepted a step; the table below has the numbers`);
    }

    markFigures() {
      const { step } = this;
      this.find("[data-adl-caption]").textContent = step ? `Step ${this.at + 1}: L_gen ${step.length.generated}, L_acc ${step.length.accepted}, ${step.length.words}.` : "";
      const node = this.figures.adl;
      const layout = node._fullLayout;
      if (!this.Plotly || !layout) return;
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
    }

    resize() {
      clearTimeout(this.resizing);
      this.resizing = setTimeout(() => {
        if (this.data) {
          this.drawFigures();
          this.drawLattice();
        }
      }, 120);
    }

    /* ---------------------------------------------------------------------------- tables */

    drawTable(details) {
      while (details.children.length > 1) details.lastChild.remove();
      if (!details.open || !this.data) return;
      const { head, rows } = this[`${details.dataset.table}Table`]();
      const table = make("table");
      const line = (values, tag) => {
        const tr = make("tr");
        tr.append(...values.map((value) => make(tag, "", value === null || value === undefined ? "–" : String(value))));
        return tr;
      };
      const thead = make("thead");
      thead.append(line(head, "th"));
      const tbody = make("tbody");
      tbody.append(...rows.map((row) => line(row, "td")));
      table.append(thead, tbody);
      const scroll = make("div", "ds-scroll ds-table-scroll");
      scroll.tabIndex = 0;
      scroll.setAttribute("role", "region");
      scroll.setAttribute("aria-label", "Numbers of the picture above");
      scroll.append(table);
      details.append(scroll);
    }

    latticeTable() {
      const head = ["position", "rank", "token", "q", "kept", "path", "proxy p", "λ·log q + (1−λ)·log p", "target p", "result"];
      const { step } = this;
      if (!step || !step.detail) return { head, rows: [] };
      const rows = [];
      for (let col = 0; col < step.k; col++) {
        for (let rank = 0; rank < step.detail.ids[col].length; rank++) {
          const f = cellFacts(this.data, step, col, rank);
          const fate = !f.onPath ? "" : col < step.seen ? "accepted" : col === step.seen ? "rejected" : "not looked at";
          rows.push([`+${col + 1}`, rank + 1, f.label, prob(f.q), f.kept ? "yes" : "pruned", f.onPath ? "yes" : "", prob(f.proxy), signed(f.combined), prob(f.target), fate]);
        }
      }
      return { head, rows };
    }

    adlTable() {
      return {
        head: ["step", "k", "L_gen", "L_acc", "EMA_gen", "EMA_acc", "wanted", "next k", "decided by"],
        rows: this.data.steps.map(({ i, k, length: l }) => [i + 1, k, l.generated, l.accepted, l.ema_gen, l.ema_acc, l.wanted, l.next_k, l.decided]),
      };
    }

    acceptanceTable() {
      const { steps } = this.data;
      const longest = Math.max(0, ...steps.map((step) => step.k));
      const rows = Array.from({ length: longest }, (_, place) => {
        const count = steps.filter((step) => step.accepted > place).length;
        const { step } = this;
        const here = step.detail && place < step.path.length;
        return [
          `+${place + 1}`, count, `${((100 * count) / steps.length).toFixed(0)} %`, here ? this.label(step.path[place]) : "",
          here ? prob(p(step.detail.pathLogp[place])) : "", !here ? "" : place < step.seen ? "accepted" : place === step.seen ? "rejected" : "not looked at",
        ];
      });
      return { head: ["position", "steps that reach it", "share", "drafted in this step", "target p", "result"], rows };
    }

    destroy() {
      this.lifetime.abort();
    }
  }

  return { mount: (root, options) => new Player(root, options) };
})();
