/* What a step's numbers say in words: a cell's facts, why it was taken or refused, the story of each phase,
   and the beams that lost. In the page's head once, as `window.DiffuSpecReasons`; draws nothing.

   data: a payload (diffuspec/ui/player/payload.py); step: one of its steps, with detail. Columns and
   ranks are counted from 0 here and from 1 in every text. */
window.DiffuSpecReasons = (() => {
  "use strict";

  const { prob, is, signed, plural } = window.DiffuSpecDraw;
  const p = (logp) => (logp === null || logp === undefined ? null : Math.exp(logp));
  const said = (data, ids) => `“${ids.map((id) => data.labels[id] ?? `⟨${id}⟩`).join("")}”`;
  /** Tokens of a tree that are no cell of the lattice have a negative rank: where they came from, in words. */
  const OUTSIDE = {
    [-1]: { mark: "⧉", word: "copy", from: "copied from the text before", why: "it was copied, for the same words stood earlier in the text" },
    [-2]: { mark: "3g", word: "3-gram", from: "added by the 3-gram", why: "the 3-gram added it, having often seen it after the words before" },
  };
  /** The token that a row of the drawing has at a column, undefined where it has none there. */
  const tokenAt = (step, col, rank) => (rank < 0 ? step.detail.outside[rank][col] ?? undefined : step.detail.ids[col]?.[rank]);
  /** Found by a search that weighs q against the causal proxy. */
  const searched = (step) => step.detail.method !== "argmax";

  /* ------------------------------------------------------------ what happened to one cell */

  /** Everything known about row `rank` of column `col` (both 0-based) of a step with detail. */
  function cellFacts(data, step, col, rank) {
    const d = step.detail;
    const lam = data.settings.lam;
    const n = step.path.length;
    const outside = rank < 0 ? OUTSIDE[rank] : null;
    const id = tokenAt(step, col, rank);
    const q = outside ? null : d.logq[col][rank];
    const proxy = col < n && !outside ? d.proxy[col][rank] : null;
    const combined = searched(step) && proxy !== null ? lam * q + (1 - lam) * proxy : null;
    const onPath = col < n && d.ranks[col] === rank;
    const level = d.levels[col];
    let beams = 0;
    if (level) for (let i = 0; i < level.survivors; i++) if (level.rank[i] === rank) beams++;
    let target = col < n && !outside ? d.cellLogp[col][rank] : null;
    if (outside && onPath) target = d.pathLogp[col];
    let targetRank = null;
    if (onPath && d.pathRank[col] >= 0) targetRank = d.pathRank[col] + 1;
    else if (col < d.topIds.length) {
      const at = d.topIds[col].indexOf(id);
      targetRank = at < 0 ? null : at + 1;
    }
    const before = outside || q === null ? 0 : d.logq[col].slice(0, rank).reduce((sum, value) => sum + Math.exp(value), 0);
    return {
      id, label: data.labels[id], col, rank, q: p(q), logq: q, proxy: p(proxy), combined, onPath, beams,
      survivors: level ? level.survivors : 0, target: p(target), targetRank, before,
      outside, kept: Boolean(outside) || Boolean(d.kept[col][rank]), choice: col < d.draws.length ? d.draws[col] : null,
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

    if (data.origin) return foreignReason(data, step, f, own, quote, known);
    if (col >= n && d.tree) {
      return { tone: "unseen", head: "Why not accepted?", text: `The target’s walk through the tree ended at +${seen + 1}, before this position; the path shown goes on from there to a leaf, +${n}.` };
    }
    if (col >= n) {
      return {
        tone: "unseen", head: "Why not sent?",
        text: `The path ended at +${n} with the stop token ${quote(step.path[n - 1])}, so nothing at +${col + 1} was sent to the target.`,
      };
    }
    if (f.onPath && d.ratios[col] !== undefined) return byRatio(data, step, f, quote);
    if (f.onPath && col < seen) {
      const how = sampled ? "The target drew this very token" : "The target’s own choice here is this very token";
      const next = col === seen - 1 && seen === n && step.token !== null
        ? " It was the last of the draft, so the target adds a bonus token." : "";
      const from = f.outside ? f.outside.why : `the drafter gave it ${is("q", f.q)}, rank ${rank + 1}`;
      return { tone: "accepted", head: "Why accepted?", text: `${how} (${is("p", f.target)}); ${from}.${next}` };
    }
    if (col > seen) {
      const why = f.onPath ? "it followed a rejected token" : `even the path’s ${quote(step.path[col])} was not judged`;
      return { tone: "unseen", head: "Why not looked at?", text: `The target stopped looking at +${seen + 1}, where it refused ${quote(step.path[seen])}: ${why}. Its p here belongs to a prefix that was thrown away.` };
    }
    if (f.onPath) return rejection(data, step, f, own, quote, known);
    return passedOver(data, step, f, own, quote, known);
  }

  /** As far as another engine told. */
  function foreignReason(data, step, f, own, quote, known) {
    const { origin } = data;
    const fate = f.col < step.seen ? "accepted" : f.col === step.seen ? "rejected" : "unseen";
    if (!f.onPath) return { tone: "unseen", head: "Not drafted", text: `It was a candidate of the drafter (${is("q", f.q)}), and ${quote(step.path[f.col])} was drafted.` };
    const q = f.q === null ? "" : ` The drafter gave it ${is("q", f.q)}.`;
    const last = fate === "accepted" && f.col === step.seen - 1 && step.kind === "bonus" ? " It was the last of the draft, so the target adds a token of its own." : "";
    if (fate === "unseen") return { tone: "unseen", head: "Why not looked at?", text: `The target’s choice ended the draft at +${step.seen + 1}; what follows was thrown away.${q}` };
    if (fate === "accepted") return { tone: fate, head: "Why accepted?", text: `It is the target’s own token here${known(f.target)}.${q}${last}` };
    const drafted = f.id < 0 ? `what was drafted; ${origin.engine} does not tell which token that was` : `${quote(f.id)}${known(f.target)}`;
    const right = f.choice === null || f.choice < 0 ? "The target wrote another token than" : `${own} ${quote(f.choice)}${known(targetP(step, f.col, f.choice))}, not`;
    return { tone: fate, head: "Why rejected?", text: `${right} ${drafted}.${q}` };
  }

  /** "u = 0.42 < 0.87" or "u = 0.91 ≥ 0.34": what the ratio rule compared at a column. */
  const compared = (d, col) => `u = ${prob(d.uniforms[col])} ${d.uniforms[col] < d.ratios[col] ? "<" : "≥"} ${prob(d.ratios[col])}`;

  function byRatio(data, step, f, quote) {
    const d = step.detail;
    const taken = f.col < step.seen;
    const rule = `${compared(d, f.col)}, the ratio min(1, p ÷ the chance it was drafted with), at ${is("p", f.target)}: ${taken ? "accepted" : "rejected"}.`;
    const end = taken
      ? f.col === step.seen - 1 && step.kind === "bonus" ? " It was the last of the draft, so the target adds a bonus token." : ""
      : ` ${quote(f.choice)} was drawn in its place, from what the target gives more than the draft did.`;
    const biased = data.settings.rule === "paper" ? " The path was searched, not drawn, so this comparison is biased." : "";
    return { tone: taken ? "accepted" : "rejected", head: taken ? "Why accepted?" : "Why rejected?", text: rule + end + biased };
  }

  function rejection(data, step, f, own, quote, known) {
    const d = step.detail;
    const { settings } = data;
    const right = f.choice;
    const head = "Why rejected?";
    const said = `${own} ${quote(right)}${known(targetP(step, f.col, right))}, not ${quote(f.id)}${known(f.target)}.`;
    const rank = f.col < d.ids.length ? d.ids[f.col].indexOf(right) : -1;
    if (f.col >= d.ids.length) {
      return { tone: "rejected", head, text: `${said} ${step.k ? "The lattice ended before this position: the token was" : "This step had no draft: the token was"} ${f.outside.from}.` };
    }
    if (rank < 0) {
      return { tone: "rejected", head, text: `${said} It is not among the drafter’s ${d.ids[f.col].length} candidates: a drafter miss, no search could have found it.` };
    }
    const g = cellFacts(data, step, f.col, rank);
    const place = `It was in the lattice at rank ${rank + 1} (${is("q", g.q)})`;
    if (!g.kept) {
      return { tone: "rejected", head, text: `${said} ${place}, but was pruned: ${pruning(g, settings)}. A pruning miss, not a drafter miss.` };
    }
    if (d.tree) {
      return { tone: "rejected", head, text: `${said} ${place}, but no node of the tree stood for it after this prefix: a larger tree might have held it, so a search miss, not a drafter miss.` };
    }
    if (!searched(step)) {
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
    if (f.outside) return { tone, head: "Why not accepted?", text: `${lead}It stood in the tree: ${f.outside.why}; the target’s own choice ran along ${quote(pathId)}.` };
    if (d.tree) {
      const nodes = d.tree.depth.filter((depth, i) => depth === f.col && d.tree.rank[i] === f.rank).length;
      if (nodes) return { tone, head: "Why not accepted?", text: `${lead}The tree holds it in ${plural(nodes, "node")}, and the target read ${nodes === 1 ? "it" : "them"}, but its own choice ran along ${quote(pathId)}.` };
      return { tone, head: "Why not in the tree?", text: `${lead}The tree has ${plural(d.tree.ids.length, "node")}, the likeliest of all paths (${is("q", f.q)}, proxy ${prob(f.proxy)} here); none of them is this cell.` };
    }
    if (!searched(step)) {
      return { tone, head, text: `${lead}The argmax draft takes each column’s likeliest token, ${quote(pathId)}; this one is rank ${f.rank + 1} (${is("q", f.q)}).` };
    }
    const chosen = cellFacts(data, step, f.col, d.ranks[f.col]);
    if (f.combined === null) return { tone, head, text: `${lead}The search did not score it after the chosen path.` };
    const gap = chosen.combined - f.combined;
    const verdict = gap >= 0
      ? `Here it scores ${signed(gap, 1)} below ${quote(pathId)}, which the search took`
      : `Here it scores ${signed(-gap, 1)} above ${quote(pathId)}, but every path through it lost later`;
    const reach = !d.levels.length ? "" : f.beams ? `; ${f.beams} of ${f.survivors} beams went through it` : `; none of the ${f.survivors} beams kept it`;
    return { tone, head, text: `${lead}${verdict} (q ${prob(f.q)} against ${prob(chosen.q)}, proxy ${prob(f.proxy)} against ${prob(chosen.proxy)})${reach}.` };
  }

  /** Cell to look at first: the first rejected one, else the last accepted. */
  function defaultCell(step) {
    if (!step.detail || !step.path.length) return null;
    const col = Math.min(step.seen, step.path.length - 1);
    return { col, rank: step.detail.ranks[col] };
  }

  /* ------------------------------------------------------------------------ beams that lost */

  /** Partial paths the beam dropped, worst place first come first: {depth, ranks, ids, score, kept, best}.

      kept, best: how far its score was behind the last path kept there, and behind the best. Those of
      the last depth lost the final comparison (kept is null). */
  function lostBeams(step) {
    const d = step.detail;
    const lost = [];
    const trail = (depth, index) => {
      const ranks = [];
      for (let at = depth, i = index; at >= 0; i = d.levels[at].parent[i], at--) ranks.unshift(d.levels[at].rank[i]);
      return ranks;
    };
    d.levels.forEach((level, depth) => {
      const last = depth === d.levels.length - 1;
      for (let i = 0; i < level.rank.length; i++) {
        const chosen = depth === step.path.length - 1 && i === d.chosen;
        if (chosen || (i < level.survivors && !last)) continue;
        const ranks = trail(depth, i);
        lost.push({
          depth, ranks, ids: ranks.map((rank, col) => d.ids[col][rank]), score: level.score[i],
          kept: i < level.survivors ? null : level.score[level.survivors - 1] - level.score[i],
          best: level.score[0] - level.score[i],
        });
      }
    });
    return lost;
  }

  /* ------------------------------------------------------------------- a step, told in phases */

  const STORY = {
    mask: (data, step) =>
      `${plural(step.k, "masked position")} after ${said(data, [step.anchor])}: the drafter fills ${step.k === 1 ? "it" : "them all at once"}, in ${data.settings.passes === 1 ? "one pass" : `${data.settings.passes} passes`} (${step.ms[0].toFixed(1)} ms).`,
    lattice(data, step) {
      const best = step.detail.logq.map((column) => column[0]);
      const sure = best.indexOf(Math.max(...best));
      const unsure = best.indexOf(Math.min(...best));
      const one = (col) => `+${col + 1} ${said(data, [step.detail.ids[col][0]])} (${is("q", p(best[col]))})`;
      return `Each column ranks what the drafter proposes there, not knowing its neighbours. Surest at ${one(sure)}${sure === unsure ? "" : `, least sure at ${one(unsure)}`}.`;
    },
    search(data, step) {
      const d = step.detail;
      const { settings } = data;
      const kept = d.kept.flat().reduce((sum, one) => sum + one, 0);
      const path = said(data, step.path);
      const pruned = `τ = ${prob(settings.tau)} and M_max = ${settings.m_max} keep ${kept} of ${d.kept.length * (d.kept[0] || []).length} cells`;
      if (!searched(step)) return `No search: the draft is each column’s likeliest token, ${path}.`;
      if (d.tree) {
        const from = Object.entries(OUTSIDE)
          .map(([rank, outside]) => [d.tree.rank.filter((one) => one === Number(rank)).length, outside.from])
          .filter(([nodes]) => nodes).map(([nodes, words]) => `${nodes} of them ${words}, `).join("");
        const kind = step.k ? `${pruned}; the` : "The";
        return `${kind} ${plural(d.tree.ids.length, "likeliest node")} of the tree of paths${from && `, ${from.slice(0, -2)},`} go${d.tree.ids.length === 1 ? "es" : ""} to the target together.`;
      }
      const score = d.score[d.score.length - 1];
      const argmax = step.path.every((id, col) => d.ranks[col] === 0);
      const how = d.method === "exact" ? "the exact search" : `a beam of ${settings.beam}`;
      return `${pruned}; ${how} took ${path}, score ${signed(score, 1)}${argmax ? ": also each column’s likeliest" : ", which argmax would not"} (${step.ms[1].toFixed(1)} ms).`;
    },
    verify(data, step) {
      const d = step.detail;
      const pass = d.tree ? `the tree of ${plural(d.tree.ids.length, "node")}` : plural(step.path.length, "drafted token");
      const own = step.token === null ? "" : said(data, [step.token]);
      const end = step.kind === "correction" ? `at +${step.seen + 1} it wants ${own}` : step.kind === "bonus" ? `all of them, and it adds ${own}` : "and the answer ends there";
      const last = d.ratios.length - 1;
      const ratio = last >= 0 ? ` Each is kept while u < min(1, p ÷ its chance in the draft); at +${last + 1}: ${compared(d, last)}.` : "";
      return `One target pass over ${pass} (${step.ms[2].toFixed(1)} ms): ${step.seen} accepted, ${end}.${ratio}`;
    },
    commit(data, step) {
      const thrown = step.path.length - step.seen;
      const rest = thrown > 0 ? ` ${plural(thrown, "drafted token")} ${thrown === 1 ? "is" : "are"} thrown away.` : "";
      return `${said(data, step.emitted)} joins the text: ${step.accepted} drafted, ${step.emitted.length - step.accepted} of the target’s own.${rest} The next draft has k = ${step.length.next_k}.`;
    },
  };

  /** Of another engine's step: what it told, and that the rest is not told. */
  function foreignStory(data, step, phase) {
    const { origin } = data;
    const named = step.path.every((id) => id >= 0);
    const draft = `${plural(step.path.length, "token")} ${step.path.length === 1 ? "was" : "were"} drafted${named ? `: ${said(data, step.path)}` : ""}.`;
    if (phase === "mask" || phase === "lattice" || phase === "search") {
      return `${draft} ${origin.engine} does not tell ${origin.candidates ? "how the draft was chosen" : "what else the drafter considered"}.`;
    }
    const own = step.token === null ? "" : step.token < 0 ? "a token of its own" : said(data, [step.token]);
    const end = step.token === null ? "and the answer ends there" : `and the target adds ${own}`;
    if (phase === "verify") return `The target reads ${plural(step.path.length, "drafted token")}: ${step.seen} accepted, ${end}.`;
    return STORY.commit(data, step).replace(/ The next draft has k = .*$/, "");
  }

  /** What happens in a phase of a step, in one or two sentences. */
  const story = (data, step, phase) => {
    if (!step.detail || !(step.k || step.path.length)) return "";
    if (!step.k && (phase === "mask" || phase === "lattice")) return "No draft in this step: what the text before and the 3-gram offer for nothing promised more tokens per second.";
    return data.origin ? foreignStory(data, step, phase) : STORY[phase](data, step);
  };

  return { OUTSIDE, tokenAt, cellFacts, targetP, reason, defaultCell, lostBeams, story, searched, p };
})();
