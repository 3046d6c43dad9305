/* The presenter view of a player, its keys and its ways out: links, QR code, code that embeds, printing. In the page's
   head once, as `window.DiffuSpecPresenter`.

   The view is the same player, laid over the whole window with letters that are read from the last row; what it
   covers is inert meanwhile. */
window.DiffuSpecPresenter = (() => {
  "use strict";

  const { copy, make, svg, plural } = window.DiffuSpecDraw;
  const Address = window.DiffuSpecAddress;
  const Print = window.DiffuSpecPrint;

  const SCALES = [1, 1.15, 1.3, 1.5, 1.75]; // letters of the view against 24 px
  const MANY = 12; // more drafted tokens than this are guessed by number, not by button
  const KEYS = [
    ["← →", "step back, step on"],
    ["Home End", "first step, last step"],
    ["1 to 5", "the phases: mask, lattice, search, verify, commit"],
    ["Page↓ Page↑", "next phase, phase before; after the last the next step (as a clicker sends them)"],
    ["Space", "play and pause"],
    ["P", "presenter view: one step on one screen"],
    ["Esc", "leave the presenter view"],
    ["+ −", "larger, smaller letters there"],
    ["F", "whole screen"],
    ["T", "light or dark"],
    ["S", "share: link, QR code, embedding, printing"],
    ["?", "these keys"],
    ["Tab, then arrows", "in the lattice: the cells, each with its numbers"],
  ];

  class Presenter {
    constructor(player) {
      this.player = player;
      this.root = player.root;
      this.find = player.find;
      this.on = false;
      this.fit = null;
      this.scale = 0;
      this.inert = [];
      this.predict = this.predict.bind(this);
      for (const [keys, words] of KEYS) this.find("[data-keys]").append(make("dt", "", keys), make("dd", "", words));
      for (const button of this.root.querySelectorAll("[data-do]")) {
        player.on(button, "click", () => this.act(button.dataset.do, button));
      }
      for (const dialog of this.root.querySelectorAll("dialog")) {
        player.on(dialog, "click", (event) => event.target === dialog && dialog.close());
        // Keys pressed in a dialog are its own.
        player.on(dialog, "keydown", (event) => event.stopPropagation());
      }
      for (const field of this.root.querySelectorAll(".ds-copy input")) player.on(field, "focus", () => field.select());
      player.on(window, "hashchange", () => this.root.clientWidth || this.leave());
      player.on(window, "popstate", () => this.root.clientWidth || this.leave());
      player.lifetime.signal.addEventListener("abort", () => this.leave());
    }

    /** Act on a key; gives whether it was one of the view's. */
    key(event) {
      const act = {
        p: this.on ? "leave" : "present", t: "theme", s: "share", "?": "keys",
        PageDown: this.on && "next", PageUp: this.on && "back", f: this.on && "full", "+": this.on && "larger", "=": this.on && "larger",
        "-": this.on && "smaller", Escape: this.on && "leave",
      }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
      if (act) this.act(act);
      return Boolean(act);
    }

    act(name, button) {
      const acts = {
        present: () => this.enter(),
        leave: () => this.leave(),
        next: () => this.player.advance(1),
        back: () => this.player.advance(-1),
        larger: () => this.resize(1),
        smaller: () => this.resize(-1),
        theme: () => window.DiffuSpecDraw.turnTheme(),
        full: () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen().catch(() => {})),
        keys: () => this.find("[data-dialog=keys]").showModal(),
        share: () => this.share(),
        close: () => button.closest("dialog").close(),
        "copy-link": () => this.copy("[data-share-link]", button),
        "copy-frame": () => this.copy("[data-share-frame]", button),
        "print-run": () => this.print("run"),
        "print-step": () => this.print("step"),
        "print-steps": () => this.print("steps"),
      };
      acts[name]();
    }

    /** A payload was drawn; fresh: of another run. Does what the address asks for, once. */
    updated(fresh) {
      const { data } = this.player;
      this.find("[data-question]").textContent = data.question || "";
      this.find("[data-print-question]").textContent = data.question || "A run on token ids";
      this.find("[data-print-who]").textContent = Print.who(data);
      this.find("[data-embed-link]").href = Address.whole(this.query() || "");
      if (this.asked || data.live) {
        if (fresh && this.asked) this.moved();
        return;
      }
      this.asked = Address.read();
      if (this.asked.get("present")) this.enter();
    }

    /** {step, phase} that the address asks of the first payload; null for what it does not. A trace that the server is
        to open comes later: until then the phase alone, so that no answer is seen before it. */
    wanted({ live, trace }) {
      if (this.asked || live) return null;
      const asked = Address.read();
      const phase = asked.get("phase");
      const step = Number(asked.get("step"));
      const mine = Address.offline() || (trace && asked.get("trace") === trace);
      return {
        step: mine && step >= 1 ? Math.floor(step) - 1 : null,
        phase: phase && this.find(".ds-phases").querySelector(`#phase-${CSS.escape(phase)}`) ? phase : null,
      };
    }

    /** The step or phase in front is another: the address follows, where it can bring them back. */
    moved() {
      const { data, at, phase } = this.player;
      if (!this.asked || !data) return;
      this.find("[data-embed-link]").href = Address.whole(this.query() || "");
      const place = { step: String(at + 1), phase };
      if (Address.offline()) Address.write(place);
      else if (data.trace) Address.write({ trace: data.trace, ...place }, true);
      else if (Address.OURS.some((name) => Address.read().has(name))) Address.write({ trace: null, step: null, phase: null });
    }

    enter() {
      if (this.on || !this.player.data) return;
      this.on = true;
      this.before = document.activeElement;
      for (let node = this.root; node && node !== document.body; node = node.parentElement) {
        for (const other of node.parentElement.children) {
          if (other === node || other.inert) continue;
          other.inert = true;
          this.inert.push(other);
        }
      }
      this.root.classList.add("ds-present");
      document.documentElement.classList.add("ds-presenting");
      this.resize(0);
      Address.write({ present: "1" });
      this.find("#step-next").focus({ preventScroll: true });
    }

    leave() {
      if (!this.on) return;
      this.on = false;
      this.fit = null;
      for (const node of this.inert) node.inert = false;
      this.inert = [];
      this.root.classList.remove("ds-present");
      document.documentElement.classList.remove("ds-presenting");
      if (document.fullscreenElement) document.exitFullscreen();
      Address.write({ present: null });
      this.player.drawStep();
      this.player.drawFigures();
      const back = this.before && this.before.isConnected ? this.before : this.find("[data-do=present]");
      back.focus({ preventScroll: true });
    }

    /** Another size of letters, by so many places of SCALES. */
    resize(by) {
      this.scale = Math.min(Math.max(this.scale + by, 0), SCALES.length - 1);
      this.root.style.setProperty("--scale", SCALES[this.scale]);
      for (const [name, end] of [["smaller", 0], ["larger", SCALES.length - 1]]) this.find(`[data-do=${name}]`).disabled = this.scale === end;
      this.measure();
      this.player.drawStep();
    }

    /** The room of the lattice, anew. */
    measure() {
      if (!this.on) return;
      const box = this.find("[data-lattice]");
      box.replaceChildren();
      this.fit = { width: box.clientWidth, height: box.clientHeight, scale: SCALES[this.scale] };
    }

    /* ---------------------------------------------------------------------- predict, then reveal */

    /** Nodes: the question how much will be accepted, or how the guess turned out; none where there is nothing to ask. */
    predict() {
      const { player } = this;
      const { step } = player;
      if (!step || !step.detail || !step.path.length || player.data.live) return [];
      const guess = player.guesses.get(step.i);
      const box = make("div", "ds-guess-box");
      if (!player.guessing) {
        if (guess === undefined) return [];
        const right = [...player.guesses].filter(([i, count]) => player.data.steps[i].seen === count).length;
        const said = guess === step.seen ? `Guessed ${guess}: right.` : `Guessed ${guess}; the target accepted ${step.seen}.`;
        box.append(make("p", "ds-guessed", `${said} ${right} of ${plural(player.guesses.size, "guess").replace(/guesss$/, "guesses")} right so far.`));
        return [box];
      }
      const most = player.phase === "search" ? step.path.length : step.k || step.path.length;
      const name = `How many of ${most === 1 ? "it" : `these ${most}`} will the target accept?`;
      const choices = make("span", "ds-guesses");
      choices.setAttribute("role", "group");
      choices.setAttribute("aria-label", name);
      const choose = (count) => {
        player.guesses.set(step.i, count);
        player.drawInspector();
        this.find(`[data-guess="${count}"]`)?.focus();
      };
      if (most <= MANY) {
        for (let count = 0; count <= most; count++) {
          const button = make("button", "", String(count));
          button.type = "button";
          button.dataset.guess = String(count);
          button.setAttribute("aria-pressed", String(guess === count));
          button.addEventListener("click", () => choose(count));
          choices.append(button);
        }
      } else {
        const field = Object.assign(make("input"), { type: "number", min: 0, max: most, value: guess ?? "" });
        field.setAttribute("aria-label", name);
        field.addEventListener("change", () => field.checkValidity() && field.value !== "" && player.guesses.set(step.i, Math.round(field.valueAsNumber)));
        choices.append(field);
      }
      const reveal = make("button", "ds-primary", "Reveal");
      reveal.type = "button";
      reveal.dataset.reveal = "";
      reveal.title = "Go to the phase “verify” (key 4)";
      reveal.addEventListener("click", () => {
        player.setPhase("verify");
        this.find("#phase-verify").focus();
      });
      box.append(make("p", "", name), choices, reveal);
      return [box];
    }

    /* ----------------------------------------------------------------------------------- share */

    /** The query that brings the step in front back, or prompt and settings where the trace is not recorded. */
    query() {
      const { data, at, phase } = this.player;
      if (Address.offline()) return `step=${at + 1}&phase=${phase}`;
      return data.trace ? `trace=${encodeURIComponent(data.trace)}&step=${at + 1}&phase=${phase}` : data.link;
    }

    /** Code for a page of one's own that shows the player, or one picture of it; null where no address brings it back. */
    frame(picture = "1", height = 760) {
      const { data } = this.player;
      if (!Address.offline() && !data.trace) return null;
      const address = Address.whole(`${this.query()}&embed=${picture}`).replace(/#playground$/, "");
      const title = `DiffuSpec: ${data.question || "a run"}`.slice(0, 80);
      const text = (words) => words.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
      return `<iframe src="${text(address)}" title="${text(title)}" width="100%" height="${height}" style="border:0" loading="lazy"></iframe>`;
    }

    async share() {
      const { data, at } = this.player;
      if (!data) return;
      const query = this.query();
      const here = Address.offline();
      const about = here ? `Opens this page at step ${at + 1}.`
        : data.trace ? `Opens this trace at step ${at + 1}, in the phase in front. The address above shows it too.`
          : query ? "Brings prompt and settings, not the run: “Save trace” keeps that, and the Traces page makes a page of it that replays it anywhere."
            : "This prompt is too long for a link. “Save trace” keeps the run.";
      this.find("[data-share-about]").textContent = about;
      const link = query ? Address.whole(query) : "";
      this.find("[data-share-link]").value = link;
      this.find("[data-share-link]").closest(".ds-copy").hidden = !link;
      const frame = this.frame();
      this.find("[data-share-embed]").hidden = !frame;
      this.find("[data-share-frame]").value = frame || "";
      this.find("[data-dialog=share]").showModal();
      const box = this.find("[data-qr]");
      box.replaceChildren();
      box.hidden = !this.player.options.qr || !link;
      if (box.hidden) return;
      const answer = await this.player.options.qr(link).catch(() => ({ refused: "The server did not answer." }));
      if (answer.refused) return box.replaceChildren(make("p", "ds-hint", answer.refused));
      box.replaceChildren(drawQr(answer.rows, link));
      const local = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
      if (local) box.append(make("p", "ds-hint", "This address works on this machine alone. Started with --host 0.0.0.0 the app can be reached from others by this machine’s name."));
    }

    async copy(selector, button) {
      const field = this.find(selector);
      field.select();
      await copy(field.value);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    }

    print(what) {
      this.find("[data-dialog=share]").close();
      Print.print(this.player, what);
    }
  }

  /** Rows of "0" and "1", the quiet zone included, as a drawing; black on white whatever the theme. */
  function drawQr(rows, link) {
    const size = rows.length;
    const node = svg("svg", { viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": `QR code of ${link}`, "shape-rendering": "crispEdges" });
    const dark = rows.flatMap((row, y) => [...row].map((bit, x) => (bit === "1" ? `M${x} ${y}h1v1h-1z` : "")));
    node.append(svg("rect", { width: size, height: size, fill: "#fff" }), svg("path", { d: dark.join(""), fill: "#000" }));
    return node;
  }

  return { Presenter };
})();
