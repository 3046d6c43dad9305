/* What the address of a page asks for and is told: trace, step, phase, present, embed. In the page's head once, as
   `window.DiffuSpecAddress`.

   The app keeps it in the query, ?trace=code&step=5&phase=verify, which its server reads too; a page that replays
   offline has it behind the #, since browsers let no file change its own query. */
window.DiffuSpecAddress = (() => {
  "use strict";

  const offline = () => location.protocol === "file:" || !document.getElementById("pages");
  /** Everything asked for, as URLSearchParams; a # that names a page is none of it. */
  const read = () => {
    const asked = new URLSearchParams(location.search);
    if (location.hash.includes("=")) for (const [name, value] of new URLSearchParams(location.hash.slice(1))) asked.set(name, value);
    return asked;
  };
  const OURS = ["trace", "step", "phase"];
  const STAYS = ["present", "embed", "__theme"];
  const PICTURES = ["text", "lattice", "adl", "acceptance", "stages", "bars"]; // ids of cards

  /** The address with `changes` (name -> value, null to take it away); `only` drops whatever else was asked for. */
  const changed = (changes, only = false) => {
    const asked = only ? new URLSearchParams([...read()].filter(([name]) => STAYS.includes(name))) : read();
    for (const [name, value] of Object.entries(changes)) {
      if (value === null || value === undefined) asked.delete(name);
      else asked.set(name, value);
    }
    const text = asked.toString();
    if (offline()) return `${location.search}#${text}`;
    const page = location.hash.includes("=") ? "" : location.hash;
    return `${location.pathname}${text && `?${text}`}${page}`;
  };

  let due = {};
  let alone = false;
  let timer;
  const put = () => {
    try {
      history.replaceState(history.state, "", changed(due, alone));
    } catch {
      // A page inside another, or one that changes its address too often, may not: nothing depends on it.
    }
    due = {};
    alone = false;
  };
  /** Write `changes` to the address, soon: browsers refuse more than a hundred changes in half a minute. */
  const write = (changes, only = false) => {
    due = only ? { ...changes } : { ...due, ...changes };
    alone = alone || only;
    clearTimeout(timer);
    timer = setTimeout(put, 350);
  };

  /** A whole address that shows `query` (a text of parameters) on a page of the app, or in this offline page. */
  const whole = (query, page = "playground") => {
    const base = location.href.replace(/[?#].*/, "");
    return offline() ? `${base}#${query}` : `${base}?${query}#${page}`;
  };

  // A page within another shows the player, or one picture of it: embed.css hides the rest before anything is drawn.
  const embedded = read().get("embed");
  if (embedded) document.documentElement.dataset.embed = PICTURES.includes(embedded) ? embedded : "player";

  return { read, write, whole, offline, OURS };
})();
