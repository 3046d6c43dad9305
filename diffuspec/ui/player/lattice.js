/* The token lattice as a drawing: cells, paths, beams, the tree. In the page's head once, as
   `window.DiffuSpecLattice`.

   draw(box, view) replaces what `box` holds. view: {data, step, phase, show, story, extra}
     show   which overlays: path, argmax, oracle, target, beams, rows (all ranks)
     story  true where the phase has just been entered: what is new comes column by column
     extra  ranks of one more path to draw, as the Step lab does for "before"
   Every length is a constant or follows from the box's width: nothing is measured after drawing, so
   that stepping stays cheap. */
window.DiffuSpecLattice = (() => {
  "use strict";

  const { make, svg, prob, signed } = window.DiffuSpecDraw;
  const { OUTSIDE, tokenAt, targetP, lostBeams } = window.DiffuSpecReasons;

  const ROWS = 8;
  const SIGN = { accepted: "✓", correction: "↺", bonus: "+" };
  const MARK = { accepted: "✓", rejected: "✗", unseen: "" };
  const RANK = 26, GAP = 11, HEAD = 18, CELL = 33, LINE = 37, NARROW = 74, WIDE = 126; // px, as in lattice.css

  const label = (data, id) => data.labels[id] ?? `⟨${id}⟩`;
  /** Positions drawn: the lattice's columns, and those behind them where the tree goes further. */
  const span = (step) => Math.max(step.k, step.path.length, ...Object.values(step.detail.outside).map((tokens) => tokens.length));
  /** Whether {col, rank} is a cell of the step's drawing. */
  const holds = (step, { col, rank }) =>
    tokenAt(step, col, rank) !== undefined;
  const answer = (data) => data.steps.flatMap((step) => step.emitted);

  /** Ranks drawn as rows: ROWS of them unless all are asked for; paths and the right token among them. Last, and
      of negative rank, what the tree holds beside the lattice. */
  function rowsOf({ step, show, extra }) {
    const d = step.detail;
    const all = step.k ? d.ids[0].length : 0;
    const outside = [-1, -2].filter((rank) => d.outside[rank].length);
    if (show.rows || all <= ROWS) return [...Array.from({ length: all }, (_, rank) => rank), ...outside];
    const needed = new Set([...d.ranks, ...(extra || [])]);
    if (d.tree) d.tree.rank.forEach((rank) => needed.add(rank));
    if (step.seen < step.path.length && step.seen < step.k) needed.add(d.ids[step.seen].indexOf(d.draws[step.seen]));
    [-1, -2].forEach((rank) => needed.delete(rank));
    for (let rank = 0; needed.size < ROWS; rank++) needed.add(rank);
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

  function draw(box, view) {
    const { step, phase, show, data } = view;
    const d = step.detail;
    const rows = rowsOf(view);
    const room = box.clientWidth || 900;
    const width = Math.min(WIDE, Math.max(NARROW, Math.floor((room - RANK - 6) / (span(step) + 1)) - GAP));
    const grid = make("div", `ds-grid phase-${phase}${view.story ? " ds-story" : ""}`);
    grid.setAttribute("role", "grid");
    grid.setAttribute("aria-label", `Token lattice of step ${step.i + 1}: ${step.k} positions, ${rows.length} ranks`);
    grid.style.setProperty("--w", `${width}px`);
    const columns = span(step);
    grid.style.width = `${RANK + (columns + 1) * (width + GAP)}px`;
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
      const extra = col === columns && !(step.kind === "bonus" && step.seen === columns);
      const node = make("span", "ds-position", extra ? "" : `+${col + 1}`);
      node.setAttribute("role", "columnheader");
      head.append(node);
    }
    const paths = {
      oracle: show.oracle ? oraclePath(data, step) : [],
      target: show.target ? targetPath(data, step) : [],
      argmax: show.argmax ? new Array(argmaxLength(data, step)).fill(0) : [],
      lost: show.beams && phase !== "mask" && phase !== "lattice" ? beamMarks(step) : null,
      tree: treeMarks(step),
    };
    rows.forEach((rank, place) => {
      const line = row(place && (rank > rows[place - 1] + 1 || rank < 0) ? "ds-row-jump" : "");
      line.append(rowHeader(phase === "mask" ? (rank ? "" : "?") : rank < 0 ? OUTSIDE[rank].mark : String(rank + 1)));
      for (let col = 0; col < columns; col++) {
        const drawn = tokenAt(step, col, rank) !== undefined && (rank >= 0 || (phase !== "mask" && phase !== "lattice"));
        if (drawn) line.append(cell(view, col, rank, paths));
        else gap(line);
      }
    });
    const judged = phase === "verify" || phase === "commit";
    if (judged) targetRow(view, row("ds-row-target"));
    if (phase === "commit") commitRow(view, row("ds-row-commit"));
    if (phase !== "mask" && phase !== "lattice") grid.append(links(view, rows, width, paths));
    box.style.setProperty("--rows", String(Math.max(rows.length, ROWS)));
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

  function cell({ data, step, phase, show }, col, rank, paths) {
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
    const q = outside ? null : Math.exp(d.logq[col][rank]);
    const text = label(data, tokenAt(step, col, rank));
    node.style.setProperty("--q", (q || 0).toFixed(3));
    node.append(make("span", "ds-token", text), make("span", "ds-q", outside ? outside.word : prob(q)));
    const facts = [`“${text}”`, `+${col + 1}`, ...(outside ? [outside.from] : [`rank ${rank + 1}`, `q ${prob(q)}`])];
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
        if (onTree.nodes > 1) node.append(make("span", "ds-count", `×${onTree.nodes}`));
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
      if (letters.length) node.append(make("span", "ds-letters", letters.join(" ")));
      const beam = paths.lost && paths.lost.get(`${col},${rank}`);
      if (beam && !(show.path && d.ranks[col] === rank)) {
        classes.push(beam.alive ? "beam" : "beam-lost");
        if (beam.lost.length) {
          const gap = Math.min(...beam.lost.map((one) => one.best));
          node.append(make("span", "ds-behind", signed(-gap, 1)));
          facts.push(`a path through it was dropped here, ${signed(gap, 1)} behind the best`);
        } else facts.push("a beam goes through it");
      }
    }
    node.className = `ds-cell ${classes.join(" ")}`;
    node.title = facts.join(" · ");
    node.setAttribute("aria-label", facts.join(", "));
    return node;
  }

  function gap(line) {
    line.append(make("span", "ds-gap"));
  }

  function targetRow({ data, step }, line) {
    const d = step.detail;
    line.append(rowHeader("p"));
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
      node.append(make("span", "ds-token", text), make("span", "ds-q", prob(value)));
      if (marked) node.append(make("span", "ds-mark", SIGN[step.kind]));
      node.title = looked
        ? `the target’s own token at +${col + 1}: “${text}”, p ${prob(value)}${fate === "accepted" ? "" : `, ${fate}`}`
        : `not looked at: after the rejected prefix the target would say “${text}”`;
      line.append(node);
    }
  }

  function commitRow({ data, step }, line) {
    line.append(rowHeader("out"));
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
      node.append(make("span", "ds-token", text), make("span", "ds-mark", SIGN[origin]));
      node.title = `added to the text: “${text}”, ${origin}`;
      line.append(node);
    }
  }

  /** Lines between neighbouring columns: paths, beams, the tree's edges. */
  function links({ step, phase, show, extra }, rows, width, paths) {
    const d = step.detail;
    const height = HEAD + rows.length * LINE;
    const layer = svg("svg", { class: "ds-links", "aria-hidden": "true", width: RANK + span(step) * (width + GAP), height });
    const place = new Map(rows.map((rank, i) => [rank, HEAD + 4 + i * LINE + CELL / 2]));
    const link = (col, from, to, kind) => {
      const y0 = place.get(from);
      const y1 = place.get(to);
      if (y0 === undefined || y1 === undefined) return;
      const x0 = RANK + GAP + col * (width + GAP) + width;
      const mid = x0 + GAP / 2;
      const path = svg("path", { class: `ds-link ${kind}`, d: `M${x0} ${y0}C${mid} ${y0} ${mid} ${y1} ${x0 + GAP} ${y1}` });
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

  return { draw, span, holds, rowsOf, oraclePath, targetPath, argmaxLength, label, answer, ROWS };
})();
