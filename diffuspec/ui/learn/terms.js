/* The glossary behind every term: a link `#term-ID`, an element with `data-term`, or the "?" that this script
   puts behind every knob and every element with `data-explain`, opens the entry as a card beside it.

   window.DiffuSpecTerms.entries is `ui.learn.terms.entries`: id -> {name, text, choices, knobs,
   lesson, href, equations}. */
(() => {
  "use strict";

  const { entries } = window.DiffuSpecTerms;
  let card = null;
  let from = null;

  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };

  /** The entry's text, with its [[id]] as buttons that lead on. */
  const prose = (text) => {
    const line = make("p");
    for (const part of text.split(/(\[\[[\w-]+\]\])/)) {
      const id = /^\[\[([\w-]+)\]\]$/.exec(part)?.[1];
      if (!id || !entries[id]) {
        line.append(part);
        continue;
      }
      const link = make("button", "ds-term", entries[id].name);
      link.type = "button";
      link.dataset.term = id;
      line.append(link);
    }
    return line;
  };

  const build = () => {
    card = make("div", "ds ds-term-card");
    card.id = "term-card";
    card.popover = "auto";
    card.setAttribute("role", "dialog");
    card.setAttribute("aria-labelledby", "term-name");
    card.tabIndex = -1;
    card.addEventListener("toggle", (event) => {
      if (event.newState !== "closed" || !from) return;
      if (from.isConnected && (document.activeElement === document.body || card.contains(document.activeElement))) from.focus();
      from = null;
    });
    document.body.append(card);
  };

  const place = (node) => {
    const r = node.getBoundingClientRect();
    const width = Math.min(340, innerWidth - 16);
    card.style.width = `${width}px`;
    const column = node.closest("#controls");
    const beside = column && column.getBoundingClientRect().right + 10;
    if (beside && beside + width < innerWidth) {
      // What it explains, and the knobs around it, stay in sight.
      card.style.left = `${beside}px`;
      card.style.top = `${Math.max(8, Math.min(r.top - 12, innerHeight - card.offsetHeight - 8))}px`;
      return;
    }
    card.style.left = `${Math.max(8, Math.min(r.left, innerWidth - width - 8))}px`;
    const below = r.bottom + 6;
    card.style.top = `${below + card.offsetHeight < innerHeight ? below : Math.max(8, r.top - 6 - card.offsetHeight)}px`;
  };

  const open = (id, node) => {
    const entry = entries[id];
    if (!entry) return;
    if (!card) build();
    const onward = card.contains(node);
    const title = make("h2", "", entry.name);
    title.id = "term-name";
    const foot = make("p", "ds-hint");
    const link = (href, text) => {
      const a = make("a", "", text);
      a.href = href;
      a.addEventListener("click", () => card.hidePopover());
      foot.append(a);
      return a;
    };
    if (entry.lesson) link(entry.href, entry.lesson);
    for (const { words, href } of entry.equations) Object.assign(link(href, words), { target: "_blank", rel: "noopener noreferrer" });
    link("#learn/glossary", "All terms");
    const close = make("button", "ds-term-close", "×");
    close.type = "button";
    close.setAttribute("aria-label", "Close");
    close.addEventListener("click", () => card.hidePopover());
    const choices = make("dl");
    for (const [name, does] of entry.choices) choices.append(make("dt", "", name), make("dd", "", does));
    card.replaceChildren(close, title, prose(entry.text), ...(entry.choices.length ? [choices] : []), foot);
    if (!onward) {
      from = null;
      card.hidePopover();
      card.showPopover();
      from = node;
      place(node);
    }
    card.focus();
  };

  document.addEventListener("click", (event) => {
    const node = event.target.closest?.('[data-term], a[href^="#term-"]');
    if (!node) return;
    event.preventDefault();
    event.stopPropagation();
    open(node.dataset.term ?? node.getAttribute("href").slice("#term-".length), node);
  }, true);

  /* ------------------------------------------------------------------- the "?" behind terms */

  const mark = (node, id) => {
    if (!entries[id] || node.querySelector(":scope > .ds-ask")) return;
    const ask = make("button", "ds-ask", "?");
    ask.type = "button";
    ask.dataset.term = id;
    ask.setAttribute("aria-label", `What is “${entries[id].name}”?`);
    node.append(ask);
  };
  const knobs = Object.entries(entries).flatMap(([id, entry]) => entry.knobs.map((selector) => [selector, id]));
  const markAll = () => {
    for (const node of document.querySelectorAll("[data-explain]")) mark(node, node.dataset.explain);
    for (const [selector, id] of knobs) {
      for (const node of document.querySelectorAll(selector)) mark(node, id);
    }
  };
  let waiting = 0;
  const later = () => {
    waiting ||= setTimeout(() => {
      waiting = 0;
      markAll();
    }, 150);
  };
  const watch = () => {
    new MutationObserver(later).observe(document.body, { childList: true, subtree: true });
    markAll();
  };
  if (document.body) watch();
  else addEventListener("DOMContentLoaded", watch);
})();
