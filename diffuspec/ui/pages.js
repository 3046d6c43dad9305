/* The navigation: `#race` in the address opens that page, and opening a page writes it there.
   DiffuSpecPages.go("race") does both; DiffuSpecPages.at() names the page in front. */
window.DiffuSpecPages = (() => {
  "use strict";

  const button = (name) => document.getElementById(`page-${name}-button`);
  const named = () => location.hash.slice(1).split(/[/?&]/)[0];
  const at = () => {
    const front = document.querySelector('#pages [role=tab][aria-selected="true"]');
    return front ? front.id.replace(/^page-|-button$/g, "") : null;
  };
  const go = (name) => {
    const tab = button(name);
    if (tab && at() !== name) tab.click();
  };

  addEventListener("hashchange", () => go(named()));
  document.addEventListener("click", (event) => {
    const tab = event.target.closest("#pages [role=tab]");
    if (!tab || !tab.id.startsWith("page-")) return;
    const name = tab.id.replace(/^page-|-button$/g, "");
    if (named() !== name) history.pushState(null, "", `${location.search}#${name}`);
  });
  // The tabs come after this script: wait for the one that the address names.
  if (named()) {
    const waiting = setInterval(() => {
      if (!button(named())) return;
      clearInterval(waiting);
      go(named());
    }, 30);
    setTimeout(() => clearInterval(waiting), 20000);
  }

  /* ------------------------------------------------------------------------------- by keyboard */

  // The first stop of the page leads past the navigation and the controls.
  const skip = () => {
    const link = document.createElement("a");
    link.className = "skip";
    link.href = "#playground";
    link.textContent = "Skip to the player";
    link.addEventListener("click", (event) => {
      event.preventDefault();
      go("playground");
      // The tab is drawn before what is in it can have the focus.
      requestAnimationFrame(() => document.getElementById("text")?.focus());
    });
    document.body.prepend(link);
  };
  if (document.body) skip();
  else addEventListener("DOMContentLoaded", skip);
  // A list answers every key, Tab too, by opening, and does so after its field has lost the focus: it would stay open.
  document.addEventListener("keydown", (event) => {
    if (event.key === "Tab" && event.target.matches?.("input[role=listbox], input[role=combobox]")) event.stopPropagation();
  }, true);
  return { go, at };
})();
