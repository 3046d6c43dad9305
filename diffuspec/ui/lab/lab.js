/* The Step lab: mount(root, {knobs, trigger, searchAgain}) returns {update(json)}. In the page's head once, as
   `window.DiffuSpecLab`. knobs: what may be changed (ui/lab/view.py); trigger(name, detail): tells Python;
   searchAgain({step, settings}): asks it, and promises slots to merge, as JSON. */
window.DiffuSpecLab = (() => {
  "use strict";

  const Draw = window.DiffuSpecDraw;
  const Lattice = window.DiffuSpecLattice;
  const { make, prob, signed, plural } = Draw;
  const { cellFacts, reason, defaultCell } = window.DiffuSpecReasons;
  const MARK = { accepted: "✓", rejected: "✗", unknown: "?", unseen: "·" };

  const whole = (branch) => branch.forced + branch.units.map((unit) => unit.t).join("");
  /** Index of the unit at which a branch's text leaves that of another; -1 where it does not. */
  const parts = (one, branch) => {
    const text = whole(one);
    let so = branch.forced;
    if (!text.startsWith(so)) return -1; // the forced token itself is the difference
    return branch.units.findIndex((unit) => !text.startsWith((so += unit.t)));
  };

  class Lab {
    constructor(root, { knobs, trigger, searchAgain }) {
      this.root = root;
      this.trigger = trigger;
      this.searchAgain = searchAgain;
      this.find = (selector) => root.querySelector(selector);
      this.step = 0;
      this.changes = null; // settings moved away from the recorded ones
      this.cell = null;
      this.show = { path: true, before: true, argmax: false, oracle: false, target: false, beams: false, rows: false };
      this.lifetime = new AbortController();
      this.knobs = knobs;
      this.makeKnobs(knobs);
      this.wire();
    }

    on(target, event, act) {
      target.addEventListener(event, act, { signal: this.lifetime.signal });
    }

    makeKnobs(knobs) {
      const box = this.find("[data-knobs]");
      this.inputs = {};
      for (const knob of knobs) {
        const row = make("label", "ds-lab-knob");
        row.title = knob.meaning;
        const name = make("span", "", knob.symbol ? `${knob.symbol} ` : "");
        name.append(make("span", "ds-hint", knob.label.toLowerCase()));
        row.htmlFor = `lab-${knob.name}`;
        const term = Object.entries(window.DiffuSpecTerms.entries).find(([, entry]) => entry.knobs.some((selector) => selector.startsWith(`#knob-${knob.name} `)));
        if (term) {
          const help = make("span");
          help.dataset.explain = term[0];
          name.append(" ", help);
        }
        row.append(name);
        let input;
        if (knob.choices.length) {
          input = make("select");
          input.append(...knob.choices.map((choice) => new Option(choice, choice)));
        } else {
          input = make("input");
          Object.assign(input, { type: "range", min: knob.low, max: Math.min(knob.high, knob.name === "beam" ? 16 : 64), step: knob.step });
          row.append(make("output"));
        }
        input.id = `lab-${knob.name}`;
        input.dataset.knob = knob.name;
        row.append(input);
        box.append(row);
        this.inputs[knob.name] = input;
        this.on(input, "input", () => this.change(knob.name, knob.choices.length ? input.value : Number(input.value)));
      }
    }

    wire() {
      const to = { first: () => 0, prev: () => this.step - 1, next: () => this.step + 1, last: () => Infinity };
      for (const button of this.root.querySelectorAll("[data-go]")) this.on(button, "click", () => this.go(to[button.dataset.go]()));
      this.on(this.find(".ds-scrub"), "input", (event) => this.go(Number(event.target.value) - 1));
      this.on(this.find("[data-reset]"), "click", () => {
        this.changes = null;
        this.search();
      });
      for (const button of this.root.querySelectorAll("[data-toggle]")) {
        this.on(button, "click", () => {
          this.show[button.dataset.toggle] = !this.show[button.dataset.toggle];
          button.setAttribute("aria-pressed", String(this.show[button.dataset.toggle]));
          this.drawLattice();
        });
      }
      this.on(this.find("[data-back]"), "click", () => {
        this.verified = null;
        this.cell = null;
        this.draw();
      });
      const lattice = this.find("[data-lattice]");
      this.on(lattice, "click", (event) => {
        const cell = event.target.closest("[data-col]");
        if (cell) this.select(Number(cell.dataset.col), Number(cell.dataset.rank));
      });
      this.on(lattice, "keydown", (event) => this.latticeKey(event));
      for (const button of this.root.querySelectorAll("[data-ask]")) this.on(button, "click", () => this.ask(button.dataset.ask));
      this.on(this.find("[data-stop]"), "click", () => this.trigger("stop"));
      this.on(this.find("[data-branches]"), "click", (event) => {
        const button = event.target.closest("[data-open]");
        if (button) this.trigger("select", { open: Number(button.dataset.open) });
      });
      this.on(document, "keydown", (event) => {
        if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || !this.root.offsetParent) return;
        if (event.target.closest && event.target.closest("input, select, textarea, [role=tab]")) return;
        const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!move) return;
        event.preventDefault();
        this.go(this.step + move);
      });
      for (const details of this.root.querySelectorAll("[data-table]")) {
        const name = details.dataset.table;
        const node = this.find(`[data-picture=${name}]`);
        this.on(details, "toggle", () => this.drawTable(details));
        details.after(Draw.downloads({
          name: () => `diffuspec-lab-${name}-step-${this.step + 1}`, title: details.dataset.title,
          node: node && (() => node.querySelector(".ds-grid") || node), read: () => this[`${name}Table`](),
        }));
      }
      // Opened, or opened again after the trace or the step in front changed: ask for the step in front.
      const size = new ResizeObserver(() => {
        const width = this.root.clientWidth;
        if (!width) {
          this.hidden = true;
          return;
        }
        if (this.hidden !== false) {
          this.hidden = false;
          const player = document.querySelector("#player .ds-player");
          const at = player && player.dataset.at;
          if (at !== undefined && at !== null) this.step = Number(at);
          this.cell = null;
          this.search();
        } else if (width !== this.width) this.drawLattice();
        this.width = width;
      });
      size.observe(this.root);
    }

    go(index) {
      if (!this.again) return;
      const to = Math.min(Math.max(index, 0), this.again.count - 1);
      if (to === this.step) return;
      this.step = to;
      this.cell = null;
      this.search();
    }

    change(name, value) {
      this.changes = { ...(this.changes || {}), [name]: value };
      this.drawKnobs({ ...this.again.settings, ...this.changes });
      this.search();
    }

    /** Search the step in front again; of what is asked while an answer is awaited, the last. */
    search() {
      this.wanted = { step: this.step, settings: this.changes, at: performance.now() };
      if (!this.searching) this.searching = this.answered().finally(() => (this.searching = null));
    }

    async answered() {
      while (this.wanted) {
        const { step, settings, at } = this.wanted;
        this.wanted = null;
        let slots;
        try {
          slots = JSON.parse(await this.searchAgain({ step, settings }));
        } catch {
          slots = { refused: "The server did not answer the search. Is it still running? Reload the page once it is." };
        }
        if ("refused" in slots) this.trigger("input", slots);
        this.asked = at;
        this.merge(slots);
      }
    }

    /** The component's value, as Python set it. */
    update(json) {
      if (!json || json === this.json) return;
      this.json = json;
      this.asked = null;
      this.merge(JSON.parse(json));
    }

    /** Take what Python said, slot by slot. */
    merge(slots) {
      if ("busy" in slots) this.setBusy(slots.busy);
      if (slots.branches) {
        this.branches = slots.branches;
        this.drawBranches();
      }
      if (slots.again) {
        this.again = slots.again;
        this.verified = null;
        this.step = slots.again.index;
        this.draw();
      }
      if (slots.verified && this.again && slots.verified.index === this.step) {
        this.verified = slots.verified;
        // The cell that was chosen stays chosen, where the step still has it.
        if (slots.verified.redrafted) this.cell = null;
        this.draw();
      }
    }

    /** The step drawn: searched again, or what the target said of it. */
    get view() {
      const { again, verified } = this;
      const step = verified ? verified.step : again.after;
      const data = {
        labels: verified ? { ...again.labels, ...verified.labels } : again.labels,
        settings: again.settings, stops: again.stops, steps: [{ emitted: again.known || [] }],
      };
      return { step, data };
    }

    draw() {
      const { again } = this;
      const scrub = this.find(".ds-scrub");
      scrub.max = String(again.count);
      scrub.value = String(this.step + 1);
      scrub.setAttribute("aria-valuetext", `Step ${this.step + 1} of ${again.count}`);
      for (const [name, off] of [["first", this.step === 0], ["prev", this.step === 0], ["next", this.step >= again.count - 1], ["last", this.step >= again.count - 1]]) {
        this.find(`[data-go=${name}]`).disabled = off;
      }
      this.find("[data-label]").replaceChildren(make("b", "", `Step ${this.step + 1} of ${again.count}`));
      this.find("[data-lead]").textContent = `after “…${again.lead}”`;
      this.drawKnobs(again.settings);
      const drafted = Boolean(again.after);
      this.find("[data-ms]").textContent = drafted ? `searched again in ${again.ms.toFixed(1)} ms` : "";
      this.find("[data-back]").hidden = !this.verified;
      this.enable();
      this.drawCompare();
      this.drawLattice();
      for (const details of this.root.querySelectorAll("[data-table][open]")) this.drawTable(details);
      this.root.dataset.drawn = this.asked ? String(Math.round(performance.now() - this.asked)) : "";
      this.root.dataset.settings = JSON.stringify(again.settings);
    }

    drawKnobs(settings) {
      const { again } = this;
      for (const [name, input] of Object.entries(this.inputs)) {
        if (name === "m_max") input.max = String(again.width);
        if (input.tagName === "SELECT" && name === "proxy") {
          for (const option of input.options) option.disabled = !again.proxies.includes(option.value);
        }
        if (document.activeElement !== input || !this.changes) input.value = String(settings[name]);
        const moved = settings[name] !== again.recorded[name];
        const row = input.closest("label");
        row.classList.toggle("moved", moved);
        const output = row.querySelector("output");
        if (output) output.textContent = moved ? `${again.recorded[name]} → ${settings[name]}` : String(settings[name]);
      }
      const missing = this.find("[data-missing]");
      missing.textContent = again.missing;
      missing.hidden = !again.missing;
      for (const { name, when } of this.knobs) {
        this.inputs[name].disabled = Object.entries(when).some(([other, choices]) => !choices.includes(settings[other]));
      }
      this.find("[data-reset]").disabled = !this.changes;
    }

    /** [{name, tokens: [{id, fate}], own: {id, kind}, words}] of the recorded path and the new one. */
    lanes() {
      const { again } = this;
      const fates = (path, accepted, certain) => path.map((id, col) => ({
        id, fate: col < accepted ? "accepted" : !certain ? "unknown" : col === accepted ? "rejected" : "unseen",
      }));
      const { before, after } = again;
      const lanes = [{ name: "recorded", tokens: fates(before.path, before.accepted, true), own: before.token, kind: before.kind, accepted: before.accepted, kept: before.kept, score: before.score, method: before.method, certain: true, judged: true }];
      if (!after) return lanes;
      lanes.push({ name: "now", tokens: fates(after.path, after.seen, again.certain), own: after.token, kind: after.kind, accepted: after.seen, kept: again.score.kept, score: again.score.score, method: after.detail.method, certain: again.certain, judged: again.judged });
      if (this.verified) {
        const { step, title } = this.verified;
        lanes.push({ name: title, tokens: fates(step.path, step.seen, true), own: step.token, kind: step.kind, accepted: step.seen, kept: null, score: null, method: "the target", certain: true, judged: true });
      }
      return lanes;
    }

    label(id) {
      return this.view.data.labels[id] ?? `⟨${id}⟩`;
    }

    drawCompare() {
      const { again } = this;
      const lanes = this.lanes();
      const box = this.find("[data-compare]");
      const table = make("div", "ds-lanes");
      for (const lane of lanes) {
        const row = make("div", "ds-lane");
        row.append(make("b", "ds-lane-name", lane.name));
        const strip = make("span", "ds-lane-tokens");
        for (const { id, fate } of lane.tokens) {
          const token = make("span", `ds-chip ${fate}`, `${this.label(id)} ${MARK[fate]}`);
          token.title = { accepted: "accepted", rejected: "rejected", unknown: "unknown: the recorded answer ends before it", unseen: "not looked at" }[fate];
          strip.append(token);
        }
        if (lane.own !== null && lane.own !== undefined) strip.append(make("span", `ds-chip ${lane.kind}`, `${this.label(lane.own)} ${lane.kind === "bonus" ? "+" : "↺"}`));
        if (!lane.tokens.length) strip.append(make("span", "ds-hint", "no draft in this step"));
        const count = lane.judged ? `${lane.certain ? "" : "at least "}${lane.accepted} accepted` : "not judged";
        row.append(strip, make("span", "ds-lane-count", count));
        table.append(row);
      }
      box.replaceChildren(table);
      const [old, now] = lanes;
      const verdict = this.find("[data-verdict]");
      if (!now) {
        verdict.textContent = "Nothing was drafted in this step, so there is nothing to search again.";
        return;
      }
      const same = old.tokens.length === now.tokens.length && old.tokens.every((token, i) => token.id === now.tokens[i].id);
      const gain = now.accepted - old.accepted;
      const sampled = again.recorded.temperature > 0 ? " (with the draws of the recorded run)" : "";
      const what = same ? "The same path" : "Another path";
      const how = !now.judged
        ? same ? "what became of it is as recorded." : "what would be accepted is unknown: this run accepted tokens by ratio, each on a number drawn for it, and for other tokens none was drawn."
        : !now.certain
        ? `${plural(now.accepted, "token")} would be accepted at least; beyond that the recorded answer ends, so it is unknown.`
        : gain ? `${plural(Math.abs(gain), "token")} ${gain > 0 ? "more" : "fewer"} would be accepted${sampled}.` : `as many tokens would be accepted${sampled}.`;
      const best = `The best path in this lattice would have had ${again.after.oracle}.`;
      verdict.textContent = `${what}: ${how} ${now.kept} cells kept, ${old.kept} as recorded. ${best}`;
    }

    drawLattice() {
      const box = this.find("[data-lattice]");
      const why = this.find("[data-why]");
      if (!this.again) return;
      if (!this.again.after) {
        box.replaceChildren(make("p", "ds-empty", "No lattice: nothing was drafted in this step."));
        why.hidden = true;
        return;
      }
      const { step, data } = this.view;
      const hadFocus = box.contains(document.activeElement);
      this.find("[data-said]").textContent = this.verified ? this.verified.title : "as searched now · dashed: the recorded path";
      const extra = this.show.before && !this.redrafted ? this.again.before.ranks : null;
      this.rows = Lattice.draw(box, { data, step, phase: "verify", show: this.show, extra });
      if (!this.cell || !Lattice.holds(step, this.cell)) this.cell = defaultCell(step);
      if (this.cell) this.select(this.cell.col, this.cell.rank, hadFocus);
    }

    select(col, rank, focus = false) {
      this.cell = { col, rank };
      for (const old of this.root.querySelectorAll("[data-lattice] [aria-selected=true]")) {
        old.setAttribute("aria-selected", "false");
        old.tabIndex = -1;
      }
      const cell = this.find(`[data-lattice] [data-col="${col}"][data-rank="${rank}"]`);
      if (cell) {
        cell.setAttribute("aria-selected", "true");
        cell.tabIndex = 0;
        if (focus) cell.focus();
      }
      const { step, data } = this.view;
      const f = cellFacts(data, step, col, rank);
      const why = this.find("[data-why]");
      if (!this.again.certain && !this.verified && col >= step.seen) {
        why.className = "ds-why unseen";
        const where = this.again.judged ? `The recorded answer ends before +${col + 1}${this.sampled ? "." : "; ask the target with “Verify this path”."}` : "Tokens of this run were accepted by ratio, on numbers drawn for its own path only.";
        why.replaceChildren(make("b", "", "Unknown."), ` ${where}`);
      } else {
        const said = reason(data, step, col, rank);
        why.className = `ds-why ${said.tone}`;
        why.replaceChildren(make("b", "", `“${f.label}” at +${col + 1}: ${said.head}`), ` ${said.text}`);
      }
      why.hidden = false;
      const path = step.detail.ranks;
      const outside = path.findIndex((one) => one < 0);
      const off = path[col] !== rank;
      const place = col < step.path.length ? ` in place of “${this.label(step.path[col])}”` : ", past the path’s end";
      const kept = off ? `with “${f.label}” at +${col + 1}${place}` : `up to “${f.label}” at +${col + 1}; pick another cell to force it`;
      // What the tree holds beside the lattice is no cell of the lattice, so no path through it can be named by ranks.
      const cut = outside >= 0 && outside < col ? `; what the path has from elsewhere from +${outside + 1} on gives way to the drafter’s likeliest` : "";
      this.find("[data-chosen]").textContent = rank < 0
        ? `“${f.label}” was ${f.outside.from}, not drafted: pick a cell of the lattice to verify it or to branch` : kept + cut;
      this.find("[data-ask=verify]").textContent = off && rank >= 0 ? `Verify the path with “${f.label}”` : "Verify this path";
      this.find("[data-ask=branch]").textContent = rank < 0 ? "Force a token and branch" : `Force “${f.label}” and branch`;
      this.enable();
    }

    latticeKey(event) {
      const cell = event.target.closest("[data-col]");
      const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!cell || (!move && event.key !== "Enter" && event.key !== " ")) return;
      event.preventDefault();
      event.stopPropagation();
      let col = Number(cell.dataset.col);
      let rank = Number(cell.dataset.rank);
      if (move) {
        col += move[0];
        rank = this.rows[this.rows.indexOf(rank) + move[1]];
      }
      if (this.find(`[data-lattice] [data-col="${col}"][data-rank="${rank}"]`)) this.select(col, rank, true);
    }

    /* ------------------------------------------------------------------- with the models */

    ask(act) {
      const { step } = this.view;
      const { col, rank } = this.cell;
      const outside = step.detail.ranks.findIndex((one) => one < 0); // what follows hangs on a token that is no cell
      const path = step.detail.ranks.slice(0, outside < 0 ? step.path.length : outside);
      // Columns past the path's end hold no choice of the search: their likeliest candidate.
      while (path.length <= col) path.push(0);
      path[col] = rank;
      const ranks = act === "branch" ? path.slice(0, col + 1) : path;
      const k = Math.min(32, Math.max(1, Math.round(Number(this.find("[data-k]").value)) || 8));
      const label = rank < 0 ? "" : `step ${this.step + 1}, “${this.label(step.detail.ids[col][rank])}” at +${col + 1}`;
      this.setBusy("asking …");
      this.trigger("submit", { act, step: this.step, settings: this.changes, ranks, k, label });
    }

    setBusy(text) {
      this.busy = text;
      this.find("[data-busy]").textContent = text || "";
      this.find("[data-stop]").hidden = !text;
      this.enable();
    }

    /** A draft of another length has a lattice of its own: paths through it are not the recorded step's. */
    enable() {
      const free = !this.busy && this.again && this.again.after;
      for (const button of this.root.querySelectorAll("[data-ask]")) {
        const drawn = button.dataset.ask === "verify" && this.sampled;
        const noCell = this.redrafted || !this.cell || this.cell.rank < 0;
        button.disabled = !free || drawn || (button.dataset.ask !== "redraft" && noCell);
      }
      const note = this.find("[data-sampled]");
      note.hidden = !this.sampled;
      if (this.sampled) note.textContent = `This run was sampled (T = ${this.again.recorded.temperature}): on another path the target would draw anew, so no path of it can be verified after the fact. Branching and drafting again draw anew, and say so.`;
    }

    get sampled() {
      return Boolean(this.again && this.again.recorded.temperature > 0);
    }

    get redrafted() {
      return Boolean(this.verified && this.verified.redrafted);
    }

    drawBranches() {
      const card = this.find("#lab-branches");
      card.hidden = !this.branches.length;
      this.find("[data-branches]").replaceChildren(...this.branches.map((branch, i) => {
        const column = make("article", "ds-lab-branch");
        column.append(make("h3", "", branch.label));
        const figures = make("p", "ds-note", `${plural(branch.tokens, "token")} in ${plural(branch.steps, "step")} · ${branch.tokens_per_step ?? "–"} tokens/step · ${branch.accepted_per_step ?? "–"} accepted/step`);
        const text = make("p", "ds-lab-text");
        // A branch from another step has nothing to be compared with.
        const comparable = i > 0 && branch.at === this.branches[0].at;
        if (branch.forced) {
          const forced = make("span", "ds-unit ds-forced", branch.forced);
          forced.title = "forced by you";
          forced.classList.toggle("ds-apart", comparable && !whole(this.branches[0]).startsWith(branch.forced));
          text.append(forced);
        }
        const apart = comparable ? parts(this.branches[0], branch) : -1;
        branch.units.forEach((unit, at) => {
          const node = make("span", `ds-unit ${unit.o[unit.o.length - 1]}${unit.x ? " special" : ""}`, unit.t);
          if (at === apart) {
            node.classList.add("ds-apart");
            node.title = "here the text parts from the first one";
          }
          text.append(node);
        });
        column.append(figures, text);
        if (i) {
          const open = make("button", "ds-button", "Open on the Playground");
          open.type = "button";
          open.dataset.open = String(i - 1);
          column.append(open);
        }
        return column;
      }));
    }

    /* ---------------------------------------------------------------------------- tables */

    drawTable(details) {
      if (this.again) Draw.table(details, () => this[`${details.dataset.table}Table`]());
    }

    compareTable() {
      return {
        head: ["path", "search", "tokens", "accepted", "known to the end", "cells kept", "score", "the target’s own"],
        rows: this.lanes().map((lane) => [
          lane.name, lane.method, lane.tokens.map(({ id }) => this.label(id)).join(""), lane.judged ? lane.accepted : null, lane.certain ? "yes" : "no",
          lane.kept, Draw.number(lane.score, signed), lane.own === null ? "" : this.label(lane.own),
        ]),
      };
    }

    latticeTable() {
      const head = ["position", "rank", "token", "q", "kept", "path", "proxy", "λ·log q + (1−λ)·log proxy", "target p"];
      if (!this.again.after) return { head, rows: [] };
      const { step, data } = this.view;
      const rows = [];
      for (let col = 0; col < step.k; col++) {
        for (let rank = 0; rank < step.detail.ids[col].length; rank++) {
          const f = cellFacts(data, step, col, rank);
          rows.push([`+${col + 1}`, rank + 1, f.label, Draw.number(f.q, prob), f.kept ? "yes" : "pruned", f.onPath ? "yes" : "", Draw.number(f.proxy, prob), Draw.number(f.combined, signed), Draw.number(f.target, prob)]);
        }
      }
      return { head, rows };
    }

    branchesTable() {
      return {
        head: ["branch", "text", "tokens", "steps", "tokens/step", "accepted/step", "ended by"],
        rows: (this.branches || []).map((b) => [b.label, b.forced + b.units.map((unit) => unit.t).join(""), b.tokens, b.steps, b.tokens_per_step, b.accepted_per_step, b.ended]),
      };
    }
  }

  return { mount: (root, options) => new Lab(root, options) };
})();
