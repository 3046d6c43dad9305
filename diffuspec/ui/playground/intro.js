/* The strip above the player: one step of the run in front beside plain decoding, in three sentences, and the ways on.
   Token text is untrusted: textContent only. */
const { make, plural } = window.DiffuSpecDraw;
const root = element.querySelector(".ds-intro");
const find = (selector) => root.querySelector(selector);
const still = matchMedia("(prefers-reduced-motion: reduce)");
const MOST = 9; // tokens a lane shows
const PASS_MS = 800; // how long a pass of plain decoding lasts in the picture; all else in proportion
const SMALL = 3e9; // parameters: answers of smaller models are often wrong
const PHASES_MS = [["mask", 1200], ["lattice", 1600], ["search", 2000], ["verify", 2600], ["commit", 0]];
let player = null;
let drawn = null; // {run, index, count} of the step in the lanes
let timers = [];

/* ---------------------------------------------------------------------------------------- the lanes */

/** The step that the player would open with, or the one with most accepted where that has next to none. */
const example = () => {
  const { steps } = player.data;
  const telling = player.tellingStep();
  if (steps[telling].accepted > 1) return telling;
  return steps.reduce((best, step, i) => (step.accepted > steps[best].accepted ? i : best), 0);
};

const tile = (kind, head, text) => {
  const node = make("span", `ds-tile ${kind}`);
  const name = make("small", "", head);
  const token = make("span", "ds-token", text);
  node.append(name, token);
  return node;
};

/** Cells of the lane "Here": what was drafted at each place, and what became of it. */
const fates = (step, label) => {
  const cells = step.path.map((id, place) => {
    const drafted = label(id);
    if (place < step.accepted) return { kind: "accepted", head: "✓", drafted, last: drafted };
    if (place > step.seen || step.token === null) return { kind: "dropped", head: "dropped", drafted, last: drafted };
    return { kind: "correction", head: `✗ ${drafted}`, drafted, last: label(step.token) };
  });
  const own = step.emitted[step.accepted];
  if (own !== undefined && !cells.some((cell) => cell.kind === "correction")) {
    cells.splice(step.accepted, 0, { kind: step.kind === "correction" ? "correction" : "bonus", head: "its own", drafted: "", last: label(own) });
  }
  return cells;
};

const ms = (value) => `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ms`;

const drawLanes = (data, index) => {
  const step = data.steps[index];
  const label = (id) => data.labels[id] ?? `⟨${id}⟩`;
  const plain = data.merits.plain_ms;
  const [draftMs, searchMs] = step.ms;
  const total = step.ms.reduce((sum, value) => sum + value, 0);
  const box = find("[data-paces]");
  const lane = (name, about, tiles, more, words) => {
    const row = make("div", "ds-pace");
    const title = make("b", "ds-pace-name", name);
    title.append(make("small", "", about));
    const line = make("span", "ds-tiles");
    line.append(...tiles);
    if (more > 0) line.append(make("small", "", `… ${more} more`));
    row.append(title, line, words);
    return row;
  };
  const sum = (counted, time) => {
    const words = make("span", "ds-pace-sum");
    words.append(make("b", "", counted), make("small", "", `for ${plural(step.emitted.length, "token")}${time ? ` · ${ms(time)}` : ""}`));
    return words;
  };
  const n = step.emitted.length;
  const plainTiles = step.emitted.slice(0, MOST).map((id, i) => tile("plain", `pass ${i + 1}`, label(id)));
  const cells = fates(step, label);
  const hereTiles = cells.slice(0, MOST).map(({ kind, head, drafted, last }) => {
    const node = tile(kind, head, last);
    const before = make("span", "ds-token ds-drafted", drafted);
    before.setAttribute("aria-hidden", "true");
    node.append(before);
    return node;
  });
  const how = step.k ? "1 draft, 1 check" : step.path.length ? "copies, 1 check" : "no draft, 1 pass";
  const lanes = [
    lane("Plain decoding", "one pass a token", plainTiles, n - MOST, sum(plural(n, "pass").replace("passs", "passes"), plain && n * plain)),
    lane("Here", `step ${index + 1} of ${data.steps.length}`, hereTiles, cells.length - MOST, sum(how, plain && total)),
  ];
  box.replaceChildren(...lanes);
  const unit = plain || step.ms[2] || 1;
  play(lanes, [(draftMs + searchMs) / unit, total / unit]);
};

/** Tokens come when their pass is over; still where less motion is asked for. */
const play = ([plain, here], [drafted, checked]) => {
  timers.forEach(clearTimeout);
  timers = [];
  const tiles = [...plain.querySelectorAll(".ds-tile")];
  here.dataset.stage = "check";
  if (still.matches || !root.offsetParent || root.classList.contains("folded")) return;
  const at = (passes, act) => timers.push(setTimeout(act, passes * PASS_MS));
  here.dataset.stage = "mask";
  at(Math.min(drafted, 6), () => (here.dataset.stage = "draft"));
  at(Math.min(checked, 12), () => (here.dataset.stage = "check"));
  tiles.forEach((node, i) => {
    node.classList.add("ds-to-come");
    at(i + 1, () => node.classList.remove("ds-to-come"));
  });
};

/* ---------------------------------------------------------------------------------------- the words */

const say = (name, title, text, term) => {
  const line = find(`[data-words=${name}]`);
  const head = make("b", "", title);
  if (term) head.dataset.explain = term;
  line.replaceChildren(head, ` ${text}`);
};

/** Parameters that a model's name tells of, as in "SmolLM2-135M"; null where it does not. */
const size = (name) => {
  const found = /(\d+(?:\.\d+)?)\s?([MB])(?![a-z])/i.exec(name);
  return found && Number(found[1]) * { M: 1e6, B: 1e9 }[found[2].toUpperCase()];
};

const drawWords = (data, index) => {
  const step = data.steps[index];
  const { settings, merits } = data;
  const read = step.path.length + 1;
  say("draft", "What is drafted.", "A diffusion language model fills masked places, all of them in one pass" +
    (step.k > 1 ? `: here it guessed ${step.k} tokens at once, for which an ordinary model needs ${step.k} passes.` : ", where an ordinary model needs a pass for each token."),
  "diffusion-language-model");
  say("faster", "Why it is faster.", "A pass of the target takes as long as reading its weights from memory, whether for one token or for several" +
    (merits.plain_ms && step.path.length ? `: checking these ${step.path.length} took ${ms(step.ms[2])}, and plain decoding takes ${ms(merits.plain_ms)} a token.` : ". So a whole draft is checked at about the price of one token."),
  "pass");
  const same = settings.temperature === 0
    ? "A drafted token stays only where the target would have written the same. At the first that differs it writes its own. So a poor draft costs time, never a word."
    : settings.rule === "paper"
      ? "It does not quite here: this run used the paper’s sampling rule, which is biased. Under the other rules each token is drawn as the target alone would draw it."
      : "This run is sampled: a drafted token stays only by a rule that leaves the target’s probabilities as they are. So a poor draft costs time and changes nothing else.";
  say("same", "Why the text stays the same.", same, settings.temperature === 0 ? "lossless" : "sampling-rule");
  const name = data.pair.target.split(",")[0];
  const count = size(name);
  find("[data-honest]").textContent = count && count < SMALL
    ? `${name} is small, so its answers are often wrong. What is shown is that they are the same with and without drafting.`
    : `Whether an answer is right is up to ${name}. What is shown is that it is the same with and without drafting.`;
};

const draw = () => {
  const { data } = player;
  root.hidden = Boolean(data.origin); // what it says is of our own runs
  if (!data.steps.length || data.origin) return;
  const index = example();
  // A run under way keeps its first step here until it ends.
  const same = drawn && drawn.run === data.run && (data.live || (drawn.index === index && drawn.count === data.steps.length));
  if (same) return drawWords(data, Math.min(drawn.index, data.steps.length - 1));
  drawn = { run: data.run, index, count: data.steps.length };
  drawLanes(data, index);
  drawWords(data, index);
};

/* ------------------------------------------------------------------------------------------ buttons */

/** Walk the player through the phases of the step in the lanes; anything the visitor does ends it. */
const show = () => {
  if (!player || !drawn) return;
  const ended = new AbortController();
  const waits = [];
  ended.signal.addEventListener("abort", () => waits.forEach(clearTimeout));
  player.play(false);
  player.go(drawn.index);
  document.getElementById("lattice").scrollIntoView({ block: "center", behavior: still.matches ? "auto" : "smooth" });
  let at = 0;
  for (const [phase, stays] of PHASES_MS) {
    waits.push(setTimeout(() => player.setPhase(phase), at));
    at += stays;
  }
  setTimeout(() => {
    for (const event of ["pointerdown", "keydown"]) addEventListener(event, () => ended.abort(), { once: true, signal: ended.signal, capture: true });
  });
};

const fold = (folded) => {
  window.DiffuSpecTour.remember(folded);
  root.classList.toggle("folded", folded);
  const button = find("[data-do=fold]");
  button.textContent = folded ? "How it works" : "Fold";
  button.setAttribute("aria-expanded", String(!folded));
  if (!folded && player && drawn) drawLanes(player.data, drawn.index);
};

const acts = {
  show,
  tour: () => window.DiffuSpecTour.start(player, find("[data-do=tour]")),
  fold: () => fold(!root.classList.contains("folded")),
};
root.addEventListener("click", (event) => acts[event.target.closest("[data-do]")?.dataset.do]?.());
for (const { words, href } of props.links) {
  const link = make("a", "", words);
  Object.assign(link, { href, target: "_blank", rel: "noopener noreferrer" });
  find("[data-links]").append(link);
}
fold(window.DiffuSpecTour.folded());
const meet = (who) => {
  player = who;
  if (player.data) draw();
};
document.addEventListener("diffuspec-trace", (event) => meet(event.detail));
const mounted = document.querySelector("#player .ds-player");
if (mounted?.player) meet(mounted.player);
