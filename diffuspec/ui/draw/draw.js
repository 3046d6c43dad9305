/* What all our components draw with; in the page's head once, as `window.DiffuSpecDraw`.

   Elements and numbers as text, Plotly figures in the colours of the theme, the data-table twin of a
   picture, and what is taken along: PNG and SVG with title, legend and caption, CSV, and tables for papers.
   Nothing here sends a request but for plotly.js. */
window.DiffuSpecDraw = (() => {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";

  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const svg = (tag, attributes, text) => {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };

  /* ------------------------------------------------------------------------ numbers as text */

  /** A probability: "0.81", "0.004", "<0.001". */
  const prob = (value) => {
    if (value === null || value === undefined) return "–";
    if (value > 0 && value < 0.005) return value < 0.0005 ? "<0.001" : value.toFixed(3);
    return value.toFixed(2);
  };
  /** "p = 0.81", "p < 0.001" */
  const is = (name, value) => (prob(value).startsWith("<") ? `${name} < ${prob(value).slice(1)}` : `${name} = ${prob(value)}`);
  const signed = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−"));
  const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

  /* ------------------------------------------------------------------------------- Plotly */

  /** Kept once what is in the document now has been painted; soon anyhow where no frame is drawn. */
  const painted = () =>
    new Promise((done) => {
      requestAnimationFrame(() => setTimeout(done));
      setTimeout(done, 1000);
    });

  let loaded = null;
  /** A promise of the Plotly object, loaded from `url` at the first call, but not before the page has been painted:
      to read it and draw takes as long as all else together. */
  const plotly = (url) => {
    loaded ??= painted().then(() => new Promise((resolve, reject) => {
      if (window.Plotly) return resolve(window.Plotly);
      const script = document.createElement("script");
      script.src = url;
      script.onload = () => resolve(window.Plotly);
      script.onerror = () => reject(new Error("plotly.js did not load"));
      document.head.append(script);
    }));
    return loaded;
  };

  /** A figure's JSON with each colour of `colours` (name -> colour in the figure) replaced by the CSS variable
      `--ds-name` of the theme around `node`. */
  const themed = (figure, colours, node) => {
    const style = getComputedStyle(node);
    let text = JSON.stringify(figure);
    for (const [name, colour] of Object.entries(colours)) {
      text = text.replaceAll(`"${colour}"`, `"${style.getPropertyValue(`--ds-${name}`).trim() || colour}"`);
    }
    return JSON.parse(text);
  };

  /** Draw a figure into `node` at the node's own width; act(point) is called on a click. */
  const figure = async (Plotly, node, json, colours, act) => {
    if (!node.clientWidth) return; // hidden: drawn when its page is opened
    const { data, layout } = themed(json, colours, node);
    layout.font = { ...layout.font, family: getComputedStyle(node).fontFamily };
    layout.width = node.clientWidth;
    node.drawnFrom = { json, colours };
    await Plotly.react(node, data, layout, { displayModeBar: false, responsive: false, scrollZoom: false });
    if (node.dataset.ready) return;
    node.dataset.ready = "yes";
    if (act) node.on("plotly_click", (event) => act(event.points[0]));
  };

  /** Call `draw` when light turns to dark or back, until `signal` aborts. */
  const onTheme = (draw, signal) => {
    const observer = new MutationObserver(draw);
    for (const node of [document.documentElement, document.body]) {
      observer.observe(node, { attributes: true, attributeFilter: ["class"] });
    }
    signal.addEventListener("abort", () => observer.disconnect());
  };

  /** Light to dark or back, for this visit: the address says so, which Gradio reads when the page is loaded again. */
  const turnTheme = () => {
    const dark = document.body.classList.toggle("dark");
    window.DiffuSpecAddress.write({ __theme: dark ? "dark" : "light" });
  };

  /* --------------------------------------------------------------------------- table twins */

  /** Fill an open <details class="ds-table"> with {head: [...], rows: [[...]]}; empties a closed one. */
  const table = (details, read) => {
    while (details.children.length > 1) details.lastChild.remove();
    if (!details.open) return;
    const { head, rows } = read();
    const line = (values, tag) => {
      const tr = make("tr");
      tr.append(...values.map((value) => make(tag, "", value === null || value === undefined ? "–" : String(value))));
      return tr;
    };
    const node = make("table");
    const thead = make("thead");
    thead.append(line(head, "th"));
    const tbody = make("tbody");
    tbody.append(...rows.map((row) => line(row, "td")));
    node.append(thead, tbody);
    const scroll = make("div", "ds-scroll ds-table-scroll");
    scroll.tabIndex = 0;
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", "Numbers of the picture");
    scroll.append(node);
    details.append(scroll);
  };

  /* ----------------------------------------------------------------------------- downloads */

  /** A number of a table: people read `text(value)`, such as "−0.94" or "<0.001", a file of it holds the number. */
  const number = (value, text) => ({ value, toString: () => text(value) });

  const quoted = (cell) => {
    const value = cell && typeof cell === "object" ? cell.value : cell;
    let text = value === null || value === undefined ? "" : String(value);
    text = text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`);
    // A cell that opens with one of these would run as a formula in a spreadsheet.
    if (/^[=+\-@\t\r]/.test(text) && !/^[+-]?[\d.]+(e[+-]?\d+)?$/i.test(text)) text = `'${text}`;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const csv = ({ head, rows }) => [head, ...rows].map((row) => row.map(quoted).join(",")).join("\r\n") + "\r\n";

  const save = (name, blob) => {
    const link = make("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };

  const visible = (colour) => colour && colour !== "transparent" && !/^rgba\(.*, 0\)$/.test(colour);
  const INLINE = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "opacity", "font-size", "font-family", "font-weight", "font-style", "text-anchor"];

  /** A drawing made of boxes, text and SVG as one standalone SVG text: what is scrolled out of sight included. */
  const vector = (root, title) => {
    const frame = root.getBoundingClientRect();
    const width = Math.ceil(Math.max(root.scrollWidth, frame.width));
    const height = Math.ceil(Math.max(root.scrollHeight, frame.height));
    const dx = root.scrollLeft - frame.left;
    const dy = root.scrollTop - frame.top;
    const out = svg("svg", { xmlns: SVG, width, height, viewBox: `0 0 ${width} ${height}` });
    out.append(svg("title", {}, title));

    const box = (node, style) => {
      const r = node.getBoundingClientRect();
      if (!r.width || !r.height) return;
      const sides = ["Top", "Right", "Bottom", "Left"].map((side) => ({
        width: style[`border${side}Style`] === "none" ? 0 : parseFloat(style[`border${side}Width`]),
        style: style[`border${side}Style`], colour: style[`border${side}Color`],
      }));
      const dash = (side) => ({ dashed: `${3 * side.width} ${2 * side.width}`, dotted: `${side.width} ${1.5 * side.width}` })[side.style];
      const shape = { x: r.left + dx, y: r.top + dy, width: r.width, height: r.height, rx: parseFloat(style.borderTopLeftRadius) || 0 };
      const even = sides.every((side) => side.width === sides[0].width && side.style === sides[0].style && side.colour === sides[0].colour);
      const stroked = even && sides[0].width && visible(sides[0].colour);
      if (visible(style.backgroundColor) || stroked) {
        const rect = svg("rect", { ...shape, fill: visible(style.backgroundColor) ? style.backgroundColor : "none" });
        if (stroked) {
          const half = sides[0].width / 2;
          for (const [name, value] of [["x", shape.x + half], ["y", shape.y + half], ["width", r.width - 2 * half], ["height", r.height - 2 * half]]) rect.setAttribute(name, value);
          rect.setAttribute("stroke", sides[0].colour);
          rect.setAttribute("stroke-width", sides[0].width);
          if (dash(sides[0])) rect.setAttribute("stroke-dasharray", dash(sides[0]));
        }
        out.append(rect);
      }
      const below = sides[2];
      if (!even && below.width && visible(below.colour)) {
        const y = r.bottom + dy - below.width / 2;
        const line = svg("line", { x1: r.left + dx, x2: r.right + dx, y1: y, y2: y, stroke: below.colour, "stroke-width": below.width });
        if (dash(below)) line.setAttribute("stroke-dasharray", dash(below));
        out.append(line);
      }
    };
    const words = (node, style) => {
      const range = document.createRange();
      range.selectNodeContents(node);
      const r = range.getBoundingClientRect();
      if (!r.width || !node.data.trim()) return;
      const text = svg("text", {
        x: r.left + dx, y: r.top + dy + r.height * 0.78, fill: style.color, "font-family": style.fontFamily,
        "font-size": style.fontSize, "font-weight": style.fontWeight, "font-style": style.fontStyle, "xml:space": "preserve",
      }, node.data);
      if (style.opacity !== "1") text.setAttribute("opacity", style.opacity);
      if (style.transform !== "none") for (const [name, value] of [["textLength", r.width], ["lengthAdjust", "spacingAndGlyphs"]]) text.setAttribute(name, value);
      out.append(text);
    };
    const drawing = (node) => {
      const r = node.getBoundingClientRect();
      const copy = node.cloneNode(true);
      const from = [node, ...node.querySelectorAll("*")];
      [copy, ...copy.querySelectorAll("*")].forEach((part, i) => {
        const style = getComputedStyle(from[i]);
        for (const name of INLINE) part.style.setProperty(name, style.getPropertyValue(name));
        part.removeAttribute("class");
      });
      for (const [name, value] of [["x", r.left + dx], ["y", r.top + dy], ["width", r.width], ["height", r.height], ["overflow", "visible"]]) copy.setAttribute(name, value);
      out.append(copy);
    };
    const walk = (node) => {
      if (node.nodeType === Node.TEXT_NODE) return words(node, getComputedStyle(node.parentElement));
      if (node.nodeType !== Node.ELEMENT_NODE) return;
      const style = getComputedStyle(node);
      if (style.display === "none" || style.visibility === "hidden") return;
      if (node instanceof SVGSVGElement) return drawing(node);
      box(node, style);
      node.childNodes.forEach(walk);
    };
    root.childNodes.forEach(walk);
    return { text: new XMLSerializer().serializeToString(out), width, height };
  };

  /** A picture as SVG: Plotly's own where it made one, else `vector`. */
  const picture = async (node, title) => {
    if (!node.classList.contains("js-plotly-plot")) return vector(node, title);
    const { width, height } = node._fullLayout;
    const { data, layout } = themed(node.drawnFrom.json, node.drawnFrom.colours, node);
    const family = getComputedStyle(node).fontFamily;
    const figure = { data, layout: { ...layout, width, height, font: { ...layout.font, family } } };
    const uri = await window.Plotly.toImage(figure, { format: "svg", width, height });
    return { text: decodeURIComponent(uri.slice(uri.indexOf(",") + 1)), width, height };
  };

  /** Words in lines of at most `room` px. */
  const wrapped = (text, font, room) => {
    const pen = Object.assign(document.createElement("canvas").getContext("2d"), { font });
    const lines = [];
    for (const word of text.split(" ")) {
      const longer = lines.length ? `${lines[lines.length - 1]} ${word}` : word;
      if (lines.length && pen.measureText(longer).width <= room) lines[lines.length - 1] = longer;
      else lines.push(word);
    }
    return lines;
  };

  /** A picture ready for a slide, as SVG: below its title, above its legend and caption. white: in the light colours
      on white, whatever the theme. */
  const slide = async ({ node, title, legend, caption }, white) => {
    const light = [node, legend].filter((part) => part && white);
    // For as long as the colours are read: nothing is painted meanwhile.
    const lit = async (read) => {
      for (const part of light) part.classList.add("ds-light");
      try {
        return await read();
      } finally {
        for (const part of light) part.classList.remove("ds-light");
      }
    };
    const [style, inner, keys] = await lit(async () => {
      const colours = getComputedStyle(node);
      const read = { ink: colours.getPropertyValue("--ds-ink").trim(), soft: colours.getPropertyValue("--ds-ink-soft").trim(), ground: white ? "#ffffff" : colours.getPropertyValue("--ds-card").trim(), family: colours.fontFamily };
      return [read, await picture(node, title), legend && legend.clientWidth && legend.childElementCount ? vector(legend, "legend") : null];
    });
    const PAD = 20;
    const room = Math.max(inner.width, keys ? keys.width : 0, 560);
    const font = (size, weight = "") => `${weight} ${size}px ${style.family.replaceAll('"', "'")}`;
    const out = svg("svg", { xmlns: SVG });
    let y = PAD;
    const write = (text, size, fill, weight) => {
      for (const line of wrapped(text, font(size, weight), room)) {
        out.append(svg("text", { x: PAD, y: y + size, fill, "font-size": size, "font-weight": weight || "normal", "font-family": style.family, "xml:space": "preserve" }, line));
        y += Math.round(size * 1.4);
      }
    };
    const place = (part) => {
      const drawn = document.importNode(new DOMParser().parseFromString(part.text, "image/svg+xml").documentElement, true);
      for (const [name, value] of [["x", PAD], ["y", y], ["width", part.width], ["height", part.height]]) drawn.setAttribute(name, value);
      out.append(drawn);
      y += part.height + 8;
    };
    out.append(svg("title", {}, title), svg("rect", { width: "100%", height: "100%", fill: style.ground }));
    write(title, 19, style.ink, "650");
    y += 8;
    place(inner);
    if (keys) place(keys);
    if (caption) write(caption, 13, style.soft);
    const width = room + 2 * PAD;
    const height = y + PAD - 6;
    for (const [name, value] of [["width", width], ["height", height], ["viewBox", `0 0 ${width} ${height}`]]) out.setAttribute(name, value);
    return { text: new XMLSerializer().serializeToString(out), width, height };
  };

  const png = ({ text, width, height }) =>
    new Promise((resolve, reject) => {
      const image = new Image();
      image.onload = () => {
        const canvas = make("canvas");
        // As wide as a slide at least.
        const scale = Math.min(Math.max(2, 1920 / width), 8000 / Math.max(width, height));
        canvas.width = Math.round(width * scale);
        canvas.height = Math.round(height * scale);
        canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
        canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("no PNG"))), "image/png");
      };
      image.onerror = () => reject(new Error("the picture does not draw"));
      image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
    });

  /* Tables for papers: the words that people read, with a plain minus. */
  const words = (cell) => (cell === null || cell === undefined ? "–" : String(cell));
  const numeric = (cell) => /^[<≥>]?[+−-]?[\d.]+( ?%|×)?$/.test(words(cell)) || words(cell) === "–";
  const TEX = {
    "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "·": "\\textvisiblespace{}", "−": "$-$", "×": "$\\times$",
    "≥": "$\\geq$", "≤": "$\\leq$", "<": "$<$", ">": "$>$", "±": "$\\pm$", "↵": "$\\hookleftarrow$", "⟨": "$\\langle$", "⟩": "$\\rangle$", "✓": "$\\checkmark$", "✗": "$\\times$",
    "λ": "$\\lambda$", "τ": "$\\tau$", "ρ": "$\\rho$", "δ": "$\\delta$", "μ": "$\\mu$", "κ": "$\\kappa$", "–": "--", "◇": "$\\diamond$",
  };
  const tex = (text) => text.replace(/[\\~^·−×≥≤<>±↵⟨⟩✓✗λτρδμκ–◇]|[&%$#_{}]/g, (sign) => TEX[sign] || `\\${sign}`).replace(/\n/g, " ");
  /** {head, rows} as a LaTeX table in the style of booktabs. */
  const latex = ({ head, rows }, title) => {
    const columns = head.map((_, i) => (rows.length && rows.every((row) => numeric(row[i])) ? "r" : "l")).join("");
    const line = (cells) => `${cells.map((cell) => tex(words(cell))).join(" & ")} \\\\`;
    return [
      "% needs \\usepackage{booktabs}", "\\begin{table}", "\\centering", `\\caption{${tex(title)}}`, `\\begin{tabular}{${columns}}`, "\\toprule", line(head), "\\midrule",
      ...rows.map(line), "\\bottomrule", "\\end{tabular}", "\\end{table}", "",
    ].join("\n");
  };
  /** {head, rows} as a Markdown table. */
  const markdown = ({ head, rows }) => {
    const line = (cells) => `| ${cells.map((cell) => words(cell).replaceAll("−", "-").replace(/[\\|`*_<>[\]]/g, "\\$&").replace(/\n/g, " ")).join(" | ")} |`;
    const ruler = `| ${head.map((_, i) => (rows.length && rows.every((row) => numeric(row[i])) ? "---:" : "---")).join(" | ")} |`;
    return [line(head), ruler, ...rows.map(line), ""].join("\n");
  };

  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Where the page is not served over https there is no clipboard, but the old command.
      const field = Object.assign(make("textarea"), { value: text });
      document.body.append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
    }
  };

  let white = false; // pictures in light colours on white, for this visit
  const asText = (value) => (typeof value === "function" ? value() : value);

  /** Buttons PNG, SVG, CSV and, behind "more", white ground, LaTeX, Markdown and the code that embeds the picture.

      node() gives the picture (leave it out where there is only a table), read() its table, name() the file's name
      without its ending; title, caption: text, or a function that gives it; legend(): a node that is drawn below the
      picture; embed(): code for a page of one's own, null where there is none. */
  const downloads = ({ name, title, node, read, legend, caption, embed }) => {
    const bar = make("span", "ds-save");
    bar.setAttribute("role", "group");
    bar.setAttribute("aria-label", `Download: ${asText(title)}`);
    const drawn = () => slide({ node: node(), title: asText(title), legend: legend && legend(), caption: asText(caption) }, white);
    const kinds = {
      png: async () => png(await drawn()),
      svg: async () => new Blob([(await drawn()).text], { type: "image/svg+xml" }),
      csv: async () => new Blob(["\ufeff", csv(read())], { type: "text/csv;charset=utf-8" }),
    };
    const button = (label, about, act) => {
      const made = make("button", "", label);
      made.type = "button";
      made.title = about;
      made.addEventListener("click", () => act(made));
      return made;
    };
    for (const [kind, bring] of Object.entries(kinds)) {
      if (kind !== "csv" && !node) continue;
      const made = button(kind.toUpperCase(), `Download as ${kind.toUpperCase()}`, async () => save(`${name()}.${kind}`, await bring()));
      made.dataset.save = kind;
      bar.append(made);
    }
    const more = make("details", "ds-more");
    more.append(make("summary", "", "more"));
    const list = make("div");
    if (node) {
      const label = make("label");
      const box = Object.assign(make("input"), { type: "checkbox" });
      box.addEventListener("change", () => (white = box.checked));
      more.addEventListener("toggle", () => (box.checked = white));
      label.append(box, "PNG and SVG on white");
      list.append(label);
    }
    const copying = (kind, label, bring) => {
      const made = button(label, "To the clipboard", async () => {
        const text = bring();
        if (text === null) return (made.textContent = "Only a recorded trace can be embedded");
        await copy(text);
        made.textContent = "Copied";
        setTimeout(() => (made.textContent = label), 1500);
      });
      made.dataset.copy = kind;
      list.append(made);
    };
    copying("latex", "Copy table as LaTeX", () => latex(read(), asText(title)));
    copying("markdown", "Copy table as Markdown", () => markdown(read()));
    if (embed) copying("embed", "Copy code to embed", embed);
    more.append(list);
    more.addEventListener("focusout", (event) => more.contains(event.relatedTarget) || (event.relatedTarget && (more.open = false)));
    more.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !more.open) return;
      event.stopPropagation();
      more.open = false;
      more.firstChild.focus();
    });
    bar.append(more);
    return bar;
  };

  return { make, svg, prob, is, signed, number, plural, plotly, themed, figure, onTheme, turnTheme, table, csv, latex, markdown, copy, save, slide, png, downloads };
})();
