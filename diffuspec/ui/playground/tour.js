/* The guided tour: places of the page one after another, each with a few sentences. Escape ends it, the arrow keys go on
   and back. Also what is remembered of the strip above the player: whether it is folded. In the page's head once, as
   `window.DiffuSpecTour`. */
window.DiffuSpecTour = (() => {
  "use strict";

  const KEY = "diffuspec-intro";
  const remember = (folded) => {
    try {
      localStorage.setItem(KEY, folded ? "folded" : "open");
    } catch {
      // A browser that stores nothing shows the strip again next time.
    }
  };
  const folded = () => {
    try {
      return localStorage.getItem(KEY) === "folded";
    } catch {
      return false;
    }
  };

  const STOPS = [
    { at: "#text", within: ".ds-card", title: "The answer",
      text: "A large language model, the target, wrote this text. A solid line marks tokens that a small diffusion model drafted and the target accepted; a dashed line the target’s own correction; a double line its bonus after a draft that was right as a whole." },
    { at: "#merits", title: "Was it faster?",
      text: "The same target answered the same prompt once more, one token a pass. The speed-up compares the two, and “identical” says that both texts are the same, token for token. The line below says why it was faster, or why not." },
    { at: ".ds-stepbar", title: "Steps and phases",
      text: "The text was made step by step, several tokens in each. The arrow keys go from step to step, the keys 1 to 5 through the five phases of a step. The next stops walk through one." },
    { at: "#lattice", phase: "mask", title: "1 · Mask",
      text: "Masked places are put behind the text so far. Before you go on: what would you write there?" },
    { at: "#lattice", phase: "lattice", title: "2 · Lattice",
      text: "One pass of the diffusion model fills all of them. For each place it gives ranked guesses with their probabilities q. The places are filled side by side: none knows what stands in the next." },
    { at: "#lattice", phase: "search", title: "3 · Search",
      text: "So a search goes from left to right and weighs the drafter against a cheap judge of what may follow what. The path it finds is the draft. Guess: how many of its tokens will the target accept?" },
    { at: "#lattice", phase: "verify", title: "4 · Verify",
      text: "One pass of the target reads the whole path. Where it would have written the same, ✓. At the first ✗ it writes its own token, and what was drafted behind it is dropped." },
    { at: "#inspector", phase: "verify", title: "Why?",
      text: "Click any cell of the lattice: here stands what the drafter, the judge and the target thought of that token, and in one sentence why it was accepted or rejected." },
    { at: "#adl", phase: "commit", title: "5 · Commit, and the next draft",
      text: "The text has grown. A long draft wastes work where little of it is accepted, a short one leaves tokens on the table: after each step the length of the next draft is chosen anew. Click a step to go there." },
    { at: "#controls", title: "Your turn",
      text: "Type a question and press Run. “Fastest here” drafts only where it pays; “Paper” uses the paper’s values; all settings are below, each with a “?”. Questions with long, plain answers are drafted best." },
    { at: "#pages [role=tablist]", title: "The other pages",
      text: "Step lab searches a step again and forces other tokens. Race runs several methods side by side. Measure makes the paper’s tables here. Learn asks before it tells. Traces keeps, opens and shares runs." },
  ];

  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };

  let ring = null;
  let card = null;
  let player = null;
  let from = null;
  let place = 0;

  const target = () => {
    const stop = STOPS[place];
    const node = document.querySelector(stop.at);
    return (stop.within && node?.closest(stop.within)) || node;
  };

  const put = () => {
    const node = target();
    if (!card || !node) return;
    const r = node.getBoundingClientRect();
    const top = Math.max(r.top, 0);
    const bottom = Math.min(r.bottom, innerHeight);
    Object.assign(ring.style, { left: `${r.left - 4}px`, top: `${top - 4}px`, width: `${r.width + 8}px`, height: `${Math.max(bottom - top, 0) + 8}px` });
    const { offsetWidth: width, offsetHeight: height } = card;
    const gap = 14;
    let x = Math.min(Math.max(r.left, 8), innerWidth - width - 8);
    let y = bottom + gap;
    if (y + height > innerHeight - 8) y = top - gap - height;
    // Neither below nor above: beside it, or in the corner over as little of it as may be.
    if (y < 8) {
      y = innerHeight - height - 8;
      x = r.right + gap + width < innerWidth ? r.right + gap : innerWidth - width - 8;
    }
    Object.assign(card.style, { left: `${x}px`, top: `${y}px` });
  };

  const show = () => {
    const stop = STOPS[place];
    window.DiffuSpecPages.go("playground");
    if (stop.phase && player?.data?.steps.length) player.setPhase(stop.phase);
    card.querySelector("h2").textContent = stop.title;
    card.querySelector("p").textContent = stop.text;
    card.querySelector("[data-count]").textContent = `${place + 1} of ${STOPS.length}`;
    card.querySelector("[data-back]").disabled = place === 0;
    card.querySelector("[data-next]").textContent = place === STOPS.length - 1 ? "Done" : "Next";
    target()?.scrollIntoView({ block: "center" });
    put();
    card.focus({ preventScroll: true });
  };

  const move = (by) => {
    place += by;
    if (place < 0) place = 0;
    if (place >= STOPS.length) return end();
    show();
  };

  const end = () => {
    for (const event of ["scroll", "resize"]) removeEventListener(event, put, true);
    ring.remove();
    card.remove();
    ring = card = null;
    from?.focus({ preventScroll: true });
    from?.scrollIntoView({ block: "nearest" });
  };

  const build = () => {
    ring = make("div", "ds-tour-ring");
    card = make("div", "ds ds-tour");
    card.setAttribute("role", "dialog");
    card.setAttribute("aria-modal", "false");
    card.setAttribute("aria-labelledby", "tour-title");
    card.setAttribute("aria-describedby", "tour-text");
    card.tabIndex = -1;
    const title = make("h2");
    title.id = "tour-title";
    const text = make("p");
    text.id = "tour-text";
    const foot = make("footer");
    const button = (name, words, act, className = "") => {
      const node = make("button", className, words);
      node.type = "button";
      node.dataset[name] = "";
      node.addEventListener("click", act);
      return node;
    };
    const count = make("span", "ds-hint");
    count.dataset.count = "";
    foot.append(count, button("end", "End", end), button("back", "Back", () => move(-1)), button("next", "Next", () => move(1), "ds-primary"));
    card.append(title, text, foot);
    card.addEventListener("keydown", (event) => {
      const act = { Escape: end, ArrowRight: () => move(1), ArrowLeft: () => move(-1) }[event.key];
      if (!act) return;
      event.preventDefault();
      event.stopPropagation();
      act();
    });
    document.body.append(ring, card);
    for (const event of ["scroll", "resize"]) addEventListener(event, put, true);
  };

  /** who: the player, on the step it is at; opener: has the focus again when the tour ends. */
  const start = (who, opener) => {
    if (card) return;
    player = who;
    from = opener;
    place = 0;
    player?.play(false);
    build();
    show();
  };

  return { start, remember, folded, stops: STOPS.length };
})();
