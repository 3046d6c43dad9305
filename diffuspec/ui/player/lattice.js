/* The token lattice as a drawing: cells, paths, beams, the tree. In the page's head once, as
   `window.DiffuSpecLattice`.

   draw(box, view) replaces what `box` holds. view: {data, step, phase, show, story, extra, most, room, fit}
     show   which overlays: path, argmax, oracle, target, beams, rows (all ranks)
     story  true where the phase has just been entered: what is new comes column by column
     extra  ranks of one more path to draw, as the Step lab does for "before"
     most   ranks drawn as rows where not all are asked for
     room   px that the drawing may be wide, where it is not the box's width
     fit    {width, height, scale} of a room that the drawing fills, as the presenter view has it: px, and the
            size of its letters against the usual one
   Until the phase *verify* nothing of the drawing tells what the target says. Every length is a constant or follows
   from the room: nothing is measured after drawing, so that stepping stays cheap. */
window.DiffuSpecLattice = (() => {
  "use strict";

  const { make, svg, prob, signed } = window.DiffuSpecDraw;
  const { OUTSIDE, tokenAt, targetP, lostBeams } = window.DiffuSpecReasons;

  const ROWS = 8;
  const SIGN = { accepted: "✓", correction: "↺", bonus: "+" };
  const MARK = { accepted: "✓", rejected: "✗", unseen: "" };
  const LETTERS = 24; // px: what can be read from the last row
  /** Lengths in px: of the rows' names, between columns, of the head, a cell's height and that with what is below it,
      a cell's least and greatest width, its letters. */
  const PAGE = { rank: 46, gap: 11, head: 18, cell: 33, line: 37, narrow: 74, wide: 168, token: 12.5 };
  const JUDGED = ["verify", "commit"];
  const judged = (phase) => JUDGED.includes(phase);
  const BYTES = /^⟨[0-9A-F]{2}( [0-9A-F]{2})*⟩$/;

  /** What a label such as ⟨B4⟩ stands for; "" for one that is text. */
  const explained = (text) =>
    BYTES.test(text) ? `${text.length > 4 ? "bytes" : "byte"} ${text.slice(1, -1)} of a character that several tokens spell together` : "";

  const label = (data, id) => data.labels[id] ?? `⟨${id}⟩`;
  /** Positions drawn: the lattice's columns, and those behind them where the tree goes further. */
  const span = (step) => Math.max(step.k, step.path.length, ...Object.values(step.detail.outside).map((tokens) => tokens.length));
  /** Whether {col, rank} is a cell of the step's drawing. */
  const holds = (step, { col, rank }) =>
    tokenAt(step, col, rank) !== undefined;
  const answer = (data) => data.steps.flatMap((step) => step.emitted);

  /** Ranks drawn as rows: ROWS of them unless all are asked for; paths and the right token among them. Last, and
      of negative rank, what the tree holds beside the lattice. */
  function rowsOf({ step, phase, show, extra, most = ROWS, fit }) {
    const d = step.detail;
    const all = step.k ? d.ids[0].length : 0;
    const outside = [-1, -2].filter((rank) => d.outside[rank].length);
    if (show.rows || all <= most) return [...Array.from({ length: all }, (_, rank) => rank), ...outside];
    const needed = new Set([...d.ranks, ...(extra || [])]);
    if (judged(phase) && step.seen < step.path.length && step.seen < step.k) needed.add(d.ids[step.seen].indexOf(d.draws[step.seen]));
    // Where the room is limited a large tree does not show all of its ranks.
    const limit = fit ? Math.max(most, Math.floor(fit.height / (1.28 * LETTERS * fit.scale)) - 4) : all;
    if (d.tree) for (const rank of d.tree.rank) if (needed.size < limit) needed.add(rank);
    [-1, -2].forEach((rank) => needed.delete(rank));
    for (let rank = 0; needed.size < most; rank++) needed.add(rank);
    return [...[...needed].sort((x, y) => x - y), ...outside];
  }

  function argmaxLength(data, step) {
    const end = step.detail.ids.findIndex((column) => data.stops.includes(column[0]));
    return end < 0 ? step.k : end + 1;
  }

  /** Ranks of the kept cells that equal what the answer went on to say, up to the first that is missing. */
  function oraclePath(data, step) {
    const goes = answer(data);
    return Array.from({ length: step.oracle }, (_, col) => step.detail.ids[col].indexOf(goes[step.start + col]));
  }

  /** Rank of the answer's own token in each column, -1 where the lattice does not hold it, as far as the answer is known. */
  function targetPath(data, step) {
    const goes = answer(data).slice(step.start, step.start + step.k);
    return goes.map((id, col) => step.detail.ids[col].indexOf(id));
  }

  /** The lengths of a drawing of so many columns and rows, the target's and the added ones among the rows. */
  function lengths(box, { fit, room = box.clientWidth || 900 }, columns, rows) {
    if (!fit) {
      const width = Math.floor((room - PAGE.rank - 6) / columns) - PAGE.gap;
      return { ...PAGE, width: Math.min(PAGE.wide, Math.max(PAGE.narrow, width)) };
    }
    const gap = columns > 10 ? 6 : 14;
    const head = 28, rank = 88;
    const line = Math.max(Math.round(1.28 * LETTERS * fit.scale), Math.min(96, Math.floor((fit.height - head - 14) / rows)));
    const cell = line - (line < 40 ? 3 : 5);
    const token = Math.max(LETTERS * fit.scale, Math.min(46, cell / 1.8));
    return { rank, gap, head, cell, line, token, width: Math.max(48, Math.floor((fit.width - rank - 4) / columns) - gap), dense: cell < 1.25 * LETTERS * fit.scale + 16 };
  }

  /** How many ranks fit such a room, with letters of readable size and their numbers below. */
  const rowsFitting = (fit) => Math.min(ROWS, Math.max(4, Math.floor((fit.height - 42) / (LETTERS * fit.scale * 1.25 + 25)) - 2));

  let pen = null;
  /** Letters of a token that a cell has no room for are made smaller, then narrower; what is left over is cut. */
  function squeeze(node, text, { token, width, dense }) {
    pen ??= Object.assign(document.createElement("canvas").getContext("2d"), { font: "100px system-ui, sans-serif" });
    const wide = (1.06 * pen.measureText(text).width * token) / 100;
    const room = width - 16;
    if (wide <= room) return;
    const size = Math.max(Math.min(token, LETTERS), (token * room) / wide);
    const narrow = Math.max(0.62, room / ((wide * size) / token));
    node.style.fontSize = `${size.toFixed(1)}px`;
    if (dense) node.style.lineHeight = "1.1";
    if (narrow < 1) {
      node.style.transform = `scaleX(${narrow.toFixed(3)})`;
      node.style.width = `${(room / narrow).toFixed(1)}px`;
    }
  }

  function draw(box, view) {
    const { step, phase, show, data, fit } = view;
    const d = step.detail;
    const rows = rowsOf(view);
    const at = lengths(box, view, span(step) + 1, rows.length + 2);
    const { width } = at;
    const grid = make("div", `ds-grid phase-${phase}${view.story ? " ds-story" : ""}${fit ? " ds-fit" : ""}${at.dense ? " dense" : ""}`);
    grid.setAttribute("role", "grid");
    grid.setAttribute("aria-label", `Token lattice of step ${step.i + 1}: ${step.k} positions, ${rows.length} ranks`);
    for (const name of ["width", "rank", "gap", "head", "cell", "line", "token"]) grid.style.setProperty(`--${name}`, `${at[name]}px`);
    const columns = span(step);
    grid.style.width = `${at.rank + (columns + 1) * (width + at.gap)}px`;
    const row = (className = "") => {
      const node = make("div", `ds-row ${className}`);
      node.setAttribute("role", "row");
      grid.append(node);
      return node;
    };
    const head = row("ds-row-head");
    const corner = make("span", "ds-rank");
    corner.setAttribute("role", "columnheader");
    corner.setAttribute("aria-label", "rank");
    head.append(corner);
    for (let col = 0; col <= columns; col++) {
      const extra = col === columns && !(judged(phase) && step.kind === "bonus" && step.seen === columns);
      const node = make("span", "ds-position", extra ? "" : `+${col + 1}`);
      node.setAttribute("role", "columnheader");
      head.append(node);
    }
    const paths = {
      oracle: show.oracle && judged(phase) ? oraclePath(data, step) : [],
      target: show.target && judged(phase) ? targetPath(data, step) : [],
      argmax: show.argmax ? new Array(argmaxLength(data, step)).fill(0) : [],
      lost: show.beams && phase !== "mask" && phase !== "lattice" ? beamMarks(step) : null,
      tree: treeMarks(step),
    };
    rows.forEach((rank, place) => {
      const line = row(place && (rank > rows[place - 1] + 1 || rank < 0) ? "ds-row-jump" : "");
      line.append(rowHeader(phase === "mask" ? (rank ? "" : "?") : rank < 0 ? OUTSIDE[rank].mark : String(rank + 1)));
      for (let col = 0; col < columns; col++) {
        const drawn = tokenAt(step, col, rank) !== undefined && (rank >= 0 || (phase !== "mask" && phase !== "lattice"));
        if (drawn) line.append(cell(view, col, rank, paths, at));
        else gap(line);
      }
    });
    if (judged(phase)) targetRow(view, row("ds-row-target"), at);
    if (phase === "commit") commitRow(view, row("ds-row-commit"), at);
    if (phase !== "mask" && phase !== "lattice") grid.append(links(view, rows, at, paths));
    box.style.setProperty("--rows", String(Math.max(rows.length, view.most || ROWS)));
    box.replaceChildren(grid);
    return rows;
  }

  function rowHeader(text) {
    const node = make("span", "ds-rank", text);
    node.setAttribute("role", "rowheader");
    return node;
  }

  /** "col,rank" -> {lost: [beams dropped here], alive} */
  function beamMarks(step) {
    const marks = new Map();
    const at = (col, rank) => {
      const key = `${col},${rank}`;
      if (!marks.has(key)) marks.set(key, { lost: [], alive: false });
      return marks.get(key);
    };
    step.detail.levels.forEach((level, depth) => {
      for (let i = 0; i < level.survivors; i++) at(depth, level.rank[i]).alive = true;
    });
    for (const beam of lostBeams(step)) at(beam.depth, beam.ranks[beam.depth]).lost.push(beam);
    return marks;
  }

  /** "col,rank" -> {nodes, accepted} of the tree's nodes in that cell */
  function treeMarks(step) {
    const { tree } = step.detail;
    const marks = new Map();
    if (!tree) return marks;
    tree.depth.forEach((depth, i) => {
      const key = `${depth},${tree.rank[i]}`;
      const mark = marks.get(key) || { nodes: 0, accepted: false };
      mark.nodes++;
      mark.accepted ||= Boolean(tree.accepted[i]);
      marks.set(key, mark);
    });
    return marks;
  }

  function cell({ data, step, phase, show, fit }, col, rank, paths, at) {
    const d = step.detail;
    const node = make("span", "ds-cell");
    node.setAttribute("role", "gridcell");
    node.style.setProperty("--col", col);
    if (phase === "mask") {
      node.className = rank ? "ds-cell hidden" : "ds-cell masked";
      if (rank) return node;
      node.textContent = "mask";
    }
    node.setAttribute("aria-selected", "false");
    node.tabIndex = -1;
    node.dataset.col = col;
    node.dataset.rank = rank;
    if (phase === "mask") return node;
    const outside = rank < 0 ? OUTSIDE[rank] : null;
    const q = outside || d.logq[col][rank] === null ? null : Math.exp(d.logq[col][rank]);
    const text = label(data, tokenAt(step, col, rank));
    node.style.setProperty("--q", (q || 0).toFixed(3));
    const foot = make("span", "ds-cell-foot");
    node.append(token(text, fit && { ...at, width: at.width - 20 }), foot);
    const facts = [`“${text}”`, `+${col + 1}`, ...(outside ? [outside.from] : q === null ? ["q not told"] : [`rank ${rank + 1}`, `q ${prob(q)}`])];
    if (explained(text)) facts.push(explained(text));
    const classes = [];
    if (phase !== "lattice") {
      if (!outside && !d.kept[col][rank]) {
        classes.push("pruned");
        facts.push("pruned");
      }
      const onTree = paths.tree.get(`${col},${rank}`);
      if (onTree) {
        classes.push("node");
        facts.push(`${onTree.nodes === 1 ? "one node" : `${onTree.nodes} nodes`} of the tree`);
        if (onTree.nodes > 1) foot.append(make("span", "ds-count", `×${onTree.nodes}`));
      }
      if (show.path && d.ranks[col] === rank && col < step.path.length) {
        classes.push("path");
        facts.push("on the path");
        if (phase !== "search") {
          const fate = col < step.seen ? "accepted" : col === step.seen ? "rejected" : "unseen";
          classes.push(fate);
          if (MARK[fate]) {
            classes.push("marked");
            node.append(make("span", "ds-mark", MARK[fate]));
          }
          facts.push(fate === "unseen" ? "not looked at" : fate);
        }
      }
      const letters = [];
      for (const [name, letter] of [["argmax", "a"], ["oracle", "o"], ["target", "t"]]) {
        if (outside || paths[name][col] !== rank) continue;
        classes.push(name);
        letters.push(letter);
        facts.push(`on the ${name} path`);
      }
      if (letters.length) foot.append(make("span", "ds-letters", letters.join(at.width < 100 ? "" : " ")));
      const beam = paths.lost && paths.lost.get(`${col},${rank}`);
      if (beam && !(show.path && d.ranks[col] === rank)) {
        classes.push(beam.alive ? "beam" : "beam-lost");
        if (beam.lost.length) {
          const gap = Math.min(...beam.lost.map((one) => one.best));
          // A narrow cell has room for one of the two; the list below the lattice has every number.
          if (at.width >= 100 || !letters.length) foot.append(make("span", "ds-behind", signed(-gap, 1)));
          facts.push(`a path through it was dropped here, ${signed(gap, 1)} behind the best`);
        } else facts.push("a beam goes through it");
      }
    }
    foot.append(make("span", "ds-q", outside ? outside.word : prob(q)));
    node.className = `ds-cell ${classes.join(" ")}`;
    node.title = facts.join(" · ");
    node.setAttribute("aria-label", facts.join(", "));
    return node;
  }

  /** A token's text in a cell, squeezed to its width where lengths are given. */
  function token(text, at) {
    const node = make("span", "ds-token", text);
    if (at) squeeze(node, text, at);
    return node;
  }

  function gap(line) {
    line.append(make("span", "ds-gap"));
  }

  function targetRow({ data, step, fit }, line, at) {
    const d = step.detail;
    line.append(rowHeader("target"));
    const columns = span(step);
    for (let col = 0; col <= columns; col++) {
      const looked = col < d.draws.length;
      const id = looked ? d.draws[col] : d.topIds[col] ? d.topIds[col][0] : undefined;
      if (id === undefined || (col === columns && !looked)) {
        gap(line);
        continue;
      }
      const fate = !looked ? "unseen" : col < step.seen ? "accepted" : step.kind || "accepted";
      const marked = looked && col >= step.seen && step.kind;
      const node = make("span", `ds-cell ds-target ${fate}${marked ? " marked" : ""}`);
      node.setAttribute("role", "gridcell");
      node.style.setProperty("--col", col);
      const text = label(data, id);
      const value = targetP(step, col, id);
      const foot = make("span", "ds-cell-foot");
      foot.append(make("span", "ds-q", prob(value)));
      node.append(token(text, fit && { ...at, width: at.width - 20 }), foot);
      if (marked) node.append(make("span", "ds-mark", SIGN[step.kind]));
      node.title = looked
        ? `the target’s own token at +${col + 1}: “${text}”, p ${prob(value)}${fate === "accepted" ? "" : `, ${fate}`}`
        : `not looked at: after the rejected prefix the target would say “${text}”`;
      line.append(node);
    }
  }

  function commitRow({ data, step, fit }, line, at) {
    line.append(rowHeader("added"));
    for (let col = 0; col <= span(step); col++) {
      if (col >= step.emitted.length) {
        gap(line);
        continue;
      }
      const origin = col < step.accepted ? "accepted" : step.kind || "accepted";
      const node = make("span", `ds-cell ds-out marked ${origin}`);
      node.setAttribute("role", "gridcell");
      node.style.setProperty("--col", col);
      const text = label(data, step.emitted[col]);
      node.append(token(text, fit && { ...at, width: at.width - 28 }), make("span", "ds-mark", SIGN[origin]));
      node.title = `added to the text: “${text}”, ${origin}`;
      line.append(node);
    }
  }

  /** Lines between neighbouring columns: paths, beams, the tree's edges. */
  function links({ step, phase, show, extra }, rows, { rank: names, gap: between, head, cell: tall, line, width }, paths) {
    const d = step.detail;
    const layer = svg("svg", { class: "ds-links", "aria-hidden": "true", width: names + span(step) * (width + between), height: head + rows.length * line });
    const place = new Map(rows.map((rank, i) => [rank, head + (line - tall) + i * line + tall / 2]));
    const link = (col, from, to, kind) => {
      const y0 = place.get(from);
      const y1 = place.get(to);
      if (y0 === undefined || y1 === undefined) return;
      const x0 = names + between + col * (width + between) + width;
      const mid = x0 + between / 2;
      const path = svg("path", { class: `ds-link ${kind}`, d: `M${x0} ${y0}C${mid} ${y0} ${mid} ${y1} ${x0 + between} ${y1}` });
      path.style.setProperty("--col", col + 1);
      layer.append(path);
    };
    if (show.beams) {
      d.levels.forEach((level, depth) => {
        if (!depth) return;
        for (let i = level.rank.length - 1; i >= 0; i--) {
          link(depth - 1, d.levels[depth - 1].rank[level.parent[i]], level.rank[i], i < level.survivors ? "beam" : "beam lost");
        }
      });
    }
    if (d.tree) {
      d.tree.parent.forEach((parent, i) => {
        if (parent >= 0) link(d.tree.depth[parent], d.tree.rank[parent], d.tree.rank[i], d.tree.accepted[i] && phase !== "search" ? "tree taken" : "tree");
      });
    }
    const along = (ranks, kind) => {
      for (let col = 0; col + 1 < ranks.length; col++) {
        link(col, ranks[col], ranks[col + 1], typeof kind === "string" ? kind : kind(col));
      }
    };
    const known = (ranks) => ranks.map((rank) => (rank < 0 ? undefined : rank)); // not in the lattice: nowhere
    along(paths.argmax, "argmax");
    along(known(paths.target), "target");
    along(known(paths.oracle), "oracle");
    if (extra) along(extra, "extra");
    if (show.path) along(d.ranks.slice(0, step.path.length), (col) => (phase !== "search" && col + 1 > step.seen ? "path broken" : "path"));
    return layer;
  }

  /** What the marks of a drawing mean: [sample, words], those that it shows alone. */
  function legend({ data, step, phase, show }, rows) {
    const d = step.detail;
    if (phase === "mask") return [["masked", "a masked position"]];
    const keys = [["heat", "the bluer, the likelier to the drafter (number: q)"]];
    if (Array.from({ length: step.k }, (_, col) => rows.some((rank) => rank >= 0 && BYTES.test(label(data, d.ids[col][rank])))).some(Boolean)) keys.push(["words", "⟨B4⟩ a byte of a character"]);
    if (phase === "lattice") return keys;
    if (d.kept.some((column, col) => rows.some((rank) => rank >= 0 && column[rank] === 0))) keys.push(["pruned", "pruned"]);
    if (d.tree) keys.push(["node", "in the tree"]);
    if (rows.includes(-1)) keys.push(["words", "⧉ copied from the text"]);
    if (rows.includes(-2)) keys.push(["words", "3g added by the 3-gram"]);
    const after = judged(phase);
    if (show.path) {
      if (!after) keys.push(["path", "the path"]);
      else {
        if (step.seen) keys.push(["path accepted", "✓ accepted"]);
        if (step.seen < step.path.length) keys.push(["path rejected", "✗ rejected"]);
        if (step.seen + 1 < step.path.length) keys.push(["path unseen", "not looked at"]);
      }
    }
    if (show.argmax) keys.push(["line argmax", "a: argmax path"]);
    if (show.oracle && after) keys.push(["line oracle", "o: oracle path"]);
    if (show.target && after) keys.push(["line target", "t: what the answer says"]);
    if (show.beams) keys.push(["line beam", "a beam"], ["line beam lost", "lost there, by so much"]);
    if (after) keys.push(["words", "target: its own token and p"]);
    if (after && step.kind === "correction") keys.push(["correction", "↺ correction"]);
    if (after && step.kind === "bonus") keys.push(["bonus", "+ bonus"]);
    return keys;
  }

  /** Fill a list with the legend of a drawing. */
  function drawLegend(list, view, rows) {
    list.replaceChildren(...legend(view, rows).map(([sample, words]) => {
      const item = make("li");
      const mark = make("i");
      mark.dataset.key = sample;
      item.append(mark, words);
      return item;
    }));
  }

  return { draw, drawLegend, rowsFitting, explained, judged, span, holds, rowsOf, oraclePath, targetPath, argmaxLength, label, answer, ROWS };
})();
