/* The race: replays finished lanes side by side in the time each really took; while a race is under way it
   shows how far each lane is. mount(root) gives {update(json)}; the JSON is that of ui/race/view.py. Token text
   is untrusted: it reaches the page through textContent only. */
const DiffuSpecRace = (() => {
  "use strict";

  const { make, downloads } = window.DiffuSpecDraw;
  const LASTS = [10, 20, 60, 0]; // seconds that a replay takes; 0: as long as the race did
  const SLOW = 5; // a replay ends at so many times the median lane's time: one slow lane does not make the others a blink
  const STATE = { waiting: "waits", running: "running", done: "done", "left out": "left out" };
  const ordinal = (place) => `${place}${["th", "st", "nd", "rd"][place % 100 > 10 && place % 100 < 14 ? 0 : place % 10] || "th"}`;
  const seconds = (ms) => `${(ms / 1000).toFixed(2)} s`;

  class Race {
    constructor(root) {
      this.root = root;
      this.data = null;
      this.ms = 0;
      this.lasts = 20;
      this.playing = false;
      this.lanes = [];
      this.lifetime = new AbortController();
      this.find = (name) => root.querySelector(`[data-${name}]`);
      this.wire();
    }

    on(target, event, act) {
      target.addEventListener(event, act, { signal: this.lifetime.signal });
    }

    wire() {
      this.on(this.find("play"), "click", () => this.play(!this.playing));
      this.on(this.find("restart"), "click", () => this.restart());
      this.on(this.find("scrub"), "input", (event) => {
        this.play(false);
        this.seek((Number(event.target.value) / 1000) * this.end);
      });
      this.on(this.find("whole"), "click", (event) => {
        const on = event.currentTarget.getAttribute("aria-pressed") !== "true";
        event.currentTarget.setAttribute("aria-pressed", String(on));
        this.root.classList.toggle("whole", on);
        this.draw();
      });
      const speeds = this.find("speeds");
      for (const lasts of LASTS) {
        const button = make("button", "", lasts ? `${lasts} s` : "as it was");
        button.type = "button";
        button.setAttribute("role", "radio");
        button.title = lasts ? `The replay lasts ${lasts} seconds` : "In the time it took";
        button.dataset.lasts = lasts;
        this.on(button, "click", () => this.setLasts(lasts));
        speeds.append(button);
      }
      this.on(speeds, "keydown", (event) => {
        const move = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
        if (!move) return;
        event.preventDefault();
        event.stopPropagation();
        this.setLasts(LASTS[Math.min(Math.max(LASTS.indexOf(this.lasts) + move, 0), LASTS.length - 1)]);
        speeds.querySelector("[aria-checked=true]").focus();
      });
      this.setLasts(20);
      this.on(document, "keydown", (event) => this.key(event));
      this.find("save").append(downloads({ name: () => "race", title: "result of the race", read: () => this.data.table || { head: [], rows: [] } }));
    }

    key(event) {
      if (!this.data || this.data.live || !this.root.clientWidth || event.ctrlKey || event.altKey || event.metaKey) return;
      if (event.target.closest("input:not([data-scrub]), textarea, select, button, [role=tab], [contenteditable]")) return;
      const act = {
        " ": () => this.play(!this.playing),
        Home: () => this.restart(),
        End: () => (this.play(false), this.seek(this.end)),
        ArrowLeft: () => (this.play(false), this.seek(this.ms - this.end / 50)),
        ArrowRight: () => (this.play(false), this.seek(this.ms + this.end / 50)),
      }[event.key];
      if (!act) return;
      event.preventDefault();
      act();
    }

    setLasts(lasts) {
      this.lasts = lasts;
      for (const button of this.find("speeds").children) {
        const on = Number(button.dataset.lasts) === lasts;
        button.setAttribute("aria-checked", String(on));
        button.tabIndex = on ? 0 : -1;
      }
    }

    update(json) {
      if (!json || json === this.json) return;
      this.json = json;
      const before = this.data;
      this.data = JSON.parse(json);
      const fresh = !before || before.race !== this.data.race || before.live !== this.data.live;
      this.play(false);
      if (fresh) this.build();
      this.find("prompt").textContent = this.data.prompt ? `“${this.data.prompt}”` : "";
      this.find("badge").textContent = this.data.live ? "being measured" : this.data.source.badge;
      this.find("badge").title = this.data.live ? "" : this.data.source.title;
      this.find("said").textContent = this.data.live ? this.data.said : this.summary();
      for (const name of ["play", "restart", "scrub"]) this.find(name).disabled = this.data.live;
      for (const button of this.find("save").querySelectorAll("button")) button.disabled = this.data.live;
      if (this.data.live) return this.drawLive();
      const times = this.data.lanes.map((lane) => lane.ms).sort((a, b) => a - b);
      this.end = Math.max(1, Math.min(times[times.length - 1], SLOW * times[Math.floor((times.length - 1) / 2)]));
      this.finish();
      this.drawResult();
      // A race just run starts by itself; a recorded one waits to be asked.
      if (before && before.live && !matchMedia("(prefers-reduced-motion: reduce)").matches) this.restart();
    }

    get winner() {
      return this.data.lanes.reduce((a, b) => (a.ms <= b.ms ? a : b));
    }

    /** The moment at which the first lane is done: it tells more than the end, where all are. */
    finish() {
      this.seek(this.winner.ms);
      this.fresh = true;
    }

    summary() {
      const first = this.winner;
      const text = `The methods ran one after another on one machine, never side by side; here they are replayed together, each in the time it took. First: ${first.label}, ${seconds(first.ms)}`;
      const slow = this.data.lanes.filter((lane) => lane.ms > this.end).map((lane) => `${lane.label} takes ${seconds(lane.ms)}`);
      const late = slow.length ? ` The replay ends before the slowest: ${slow.join(", ")}.` : "";
      return `${first.speedup ? `${text}, ${first.speedup.toFixed(2)} × plain AR’s speed.` : `${text}.`}${late}`;
    }

    build() {
      const list = this.find("lanes");
      this.lanes = this.data.lanes.map((lane) => {
        const item = make("li", "ds-lane");
        item.dataset.lane = lane.method;
        const head = make("div", "ds-lane-head");
        head.append(make("b", "", lane.label), make("span", "ds-lane-place"));
        head.title = lane.about || "";
        const track = make("div", "ds-lane-track");
        track.setAttribute("role", "progressbar");
        track.setAttribute("aria-label", `${lane.label}: tokens so far`);
        track.setAttribute("aria-valuemin", "0");
        track.setAttribute("aria-valuemax", lane.tokens || this.data.budget);
        track.append(make("i"));
        const text = make("div", "ds-lane-text");
        text.tabIndex = 0;
        text.setAttribute("role", "group");
        text.setAttribute("aria-label", `Answer of ${lane.label}`);
        const figures = make("div", "ds-lane-figures");
        const parts = { tokens: make("span"), rate: make("b"), time: make("span") };
        figures.append(parts.rate, parts.tokens, parts.time);
        item.append(head, track, figures, text);
        const units = (lane.units || []).map(([shown, , , origin, special]) => {
          const node = make("span", `ds-unit ${origin}${special ? " special" : ""}`, shown);
          node.hidden = true;
          return node;
        });
        text.append(...units);
        return { item, track, text, parts, units, shown: 0, place: head.lastChild };
      });
      list.replaceChildren(...this.lanes.map((lane) => lane.item));
      const abouts = this.data.lanes.filter((lane) => lane.about);
      this.find("abouts").hidden = !abouts.length;
      this.find("abouts").querySelector("dl").replaceChildren(...abouts.flatMap((lane) => [make("dt", "", lane.label), make("dd", "", lane.about)]));
    }

    get most() {
      return Math.max(1, ...this.data.lanes.map((lane) => lane.tokens));
    }

    drawLive() {
      this.data.lanes.forEach((lane, i) => {
        const { item, track, parts, text, place } = this.lanes[i];
        item.dataset.state = lane.state;
        track.firstChild.style.width = `${Math.min(100, (100 * lane.made) / this.data.budget)}%`;
        track.setAttribute("aria-valuenow", lane.made);
        place.textContent = STATE[lane.state];
        parts.rate.textContent = lane.seconds ? `${(lane.made / lane.seconds).toFixed(1)} tokens/s` : "";
        parts.tokens.textContent = lane.made ? `${lane.made} tokens` : "";
        parts.time.textContent = lane.seconds ? seconds(lane.seconds * 1000) : "";
        text.textContent = lane.said || "";
      });
      this.find("clock").textContent = "";
      this.find("scrub").value = 0;
      this.find("result").replaceChildren(make("p", "ds-empty", "The table comes when every method has run."));
      this.find("whys").replaceChildren();
    }

    restart() {
      this.seek(0);
      this.play(true);
    }

    play(on) {
      if (on && (!this.data || this.data.live)) return;
      if (on && (this.fresh || this.ms >= this.end)) this.ms = 0;
      this.fresh = false;
      this.playing = on;
      const button = this.find("play");
      button.textContent = on ? "⏸ Pause" : "▶ Play";
      button.setAttribute("aria-pressed", String(on));
      cancelAnimationFrame(this.frame);
      if (!on) return;
      let last = performance.now();
      const advance = (now) => {
        this.seek(this.ms + (now - last) * (this.lasts ? this.end / (1000 * this.lasts) : 1));
        last = now;
        if (this.ms >= this.end) return this.play(false);
        this.frame = requestAnimationFrame(advance);
      };
      this.frame = requestAnimationFrame(advance);
    }

    seek(ms) {
      this.fresh = false;
      this.ms = Math.min(Math.max(ms, 0), this.end);
      this.draw();
    }

    draw() {
      if (!this.data || this.data.live) return;
      const { most } = this;
      this.find("clock").textContent = `${seconds(this.ms)} of ${seconds(this.end)}`;
      this.find("scrub").value = Math.round((1000 * this.ms) / this.end);
      this.find("scrub").setAttribute("aria-valuetext", `${seconds(this.ms)} of ${seconds(this.end)}`);
      this.data.lanes.forEach((lane, i) => {
        const view = this.lanes[i];
        let shown = view.shown;
        while (shown < lane.units.length && lane.units[shown][1] <= this.ms) view.units[shown++].hidden = false;
        while (shown > 0 && lane.units[shown - 1][1] > this.ms) view.units[--shown].hidden = true;
        const over = this.ms >= lane.ms;
        const made = shown ? lane.units[shown - 1][2] : 0;
        view.track.firstChild.style.width = `${(100 * made) / most}%`;
        view.track.setAttribute("aria-valuenow", made);
        view.item.dataset.state = over ? "done" : "running";
        view.place.textContent = over ? `⚑ ${ordinal(lane.place)}` : "";
        const elapsed = Math.min(this.ms, lane.ms);
        view.parts.rate.textContent = made && elapsed ? `${((1000 * made) / elapsed).toFixed(1)} tokens/s` : "– tokens/s";
        view.parts.tokens.textContent = `${made} of ${lane.tokens} tokens`;
        view.parts.time.textContent = over ? `${seconds(lane.ms)} ✓` : seconds(elapsed);
        if (shown !== view.shown) {
          view.shown = shown;
          view.text.scrollTop = view.text.scrollHeight;
        }
      });
    }

    drawResult() {
      const { head, rows, digits } = this.data.table;
      const shown = (value, i) => (value === null ? "–" : digits[i] === null ? String(value) : value.toFixed(digits[i]));
      const line = (values, tag) => {
        const tr = make("tr");
        tr.append(...values.map((value, i) => make(i ? tag : "th", "", tag === "th" ? value : shown(value, i))));
        return tr;
      };
      const table = make("table", "ds-race-table");
      const thead = make("thead");
      thead.append(line(head, "th"));
      const tbody = make("tbody");
      tbody.append(...rows.map((row) => line(row, "td")));
      table.append(thead, tbody);
      this.find("result").replaceChildren(table);
      this.find("whys").replaceChildren(...this.data.lanes.filter((lane) => lane.why).sort((a, b) => a.place - b.place).map((lane) => {
        const item = make("li");
        item.append(make("b", "", lane.label), ` ${lane.why}`);
        return item;
      }));
    }
  }

  return { mount: (root) => new Race(root) };
})();
const race = DiffuSpecRace.mount(element.querySelector(".ds-race"));
race.update(props.value);
watch("value", () => race.update(props.value));
