// All trials as squares. A range, which is not seen, has the keyboard and tells a screen reader which trial it is at.
function render({ model, el }) {
  let codes = new Uint8Array(0), at = 0, across = 1, cell = 10, colours = [];
  const ratio = window.devicePixelRatio || 1;

  el.classList.add("nexa-task-grid");
  const box = document.createElement("div");
  box.style.cssText = "position:relative;max-height:320px;overflow:auto";
  const canvas = document.createElement("canvas");
  canvas.className = "nexa-trials";
  canvas.style.cssText = "display:block;cursor:pointer";
  canvas.setAttribute("aria-hidden", "true");
  const range = document.createElement("input");
  range.type = "range";
  range.min = 0;
  range.style.cssText = "position:absolute;left:0;top:0;width:1px;height:1px;opacity:0;pointer-events:none";
  range.setAttribute("aria-label", "Trial; Enter shows it");
  const ink = "color:var(--jp-ui-font-color1, var(--vscode-foreground, inherit));font-size:var(--jp-ui-font-size1, 13px);line-height:1.5";
  const words = document.createElement("div");
  words.style.cssText = `min-height:1.5em;${ink}`;
  const legend = document.createElement("div");
  legend.style.cssText = `display:flex;flex-wrap:wrap;gap:0 1em;${ink}`;
  box.append(canvas, range);
  el.append(legend, box, words);

  // the notebook's colours are CSS variables: the browser says what they are
  function resolve() {
    const probe = document.createElement("span");
    el.append(probe);
    colours = model.get("palette").map(([, colour]) => { probe.style.color = colour; return getComputedStyle(probe).color; });
    probe.style.color = "var(--jp-ui-font-color0, var(--vscode-foreground, #000))";
    colours.focus = getComputedStyle(probe).color;
    probe.remove();
  }

  function name(trial) {
    const state = model.get("palette")[codes[trial]];
    return state ? `Trial ${trial}: ${state[0]}` : "";
  }

  function layout() {
    const width = Math.max(60, el.clientWidth || 600);
    cell = codes.length <= 300 ? 18 : codes.length <= 1500 ? 12 : codes.length <= 5000 ? 9 : codes.length <= 50000 ? 7 : 3;
    across = Math.max(1, Math.floor(width / cell));
    const height = Math.max(1, Math.ceil(codes.length / across)) * cell;
    canvas.width = across * cell * ratio;
    canvas.height = height * ratio;
    canvas.style.width = `${across * cell}px`;
    canvas.style.height = `${height}px`;
    canvas.getContext("2d").scale(ratio, ratio);
    redraw();
  }

  function redraw() {
    for (let trial = 0; trial < codes.length; trial++) draw(trial);
    explain();
  }

  // a square that has failed is crossed, one that waits is hollow, one that runs has a dot: colour alone tells nothing
  function paint(pen, x, y, size, code) {
    const [, , mark] = model.get("palette")[code] || ["", "", ""];
    pen.fillStyle = pen.strokeStyle = colours[code];
    pen.lineWidth = 1;
    if (size < 7 && mark === "cross") {  // no room for a cross within: the square is one
      pen.lineWidth = size < 3 ? 1 : 1.5;
      crossed(pen, x, y, size, 0);
      return;
    }
    if (mark === "hollow") pen.strokeRect(x + 0.5, y + 0.5, Math.max(0.5, size - 1), Math.max(0.5, size - 1));
    else pen.fillRect(x, y, size, size);
    if (size < 7 || !mark || mark === "hollow") return;
    pen.strokeStyle = pen.fillStyle = "#fff";
    pen.lineWidth = size >= 10 ? 2 : 1;
    if (mark === "cross") crossed(pen, x, y, size, size / 4);
    else {
      pen.beginPath();
      pen.arc(x + size / 2, y + size / 2, size / (mark === "dot" ? 6 : 4), 0, 7);
      if (mark === "dot") pen.fill(); else pen.stroke();
    }
  }

  function crossed(pen, x, y, size, from) {
    pen.beginPath();
    pen.moveTo(x + from, y + from); pen.lineTo(x + size - from, y + size - from);
    pen.moveTo(x + size - from, y + from); pen.lineTo(x + from, y + size - from);
    pen.stroke();
  }

  function draw(trial) {
    const pen = canvas.getContext("2d"), size = cell - (cell > 3 ? 2 : 1);
    const x = (trial % across) * cell + 1, y = Math.floor(trial / across) * cell + 1;
    pen.clearRect(x - 1, y - 1, cell, cell);
    paint(pen, x, y, size, codes[trial]);
    if (trial === model.get("chosen") || (trial === at && document.activeElement === range)) {
      pen.strokeStyle = colours.focus;
      pen.lineWidth = 2;
      pen.strokeRect(x, y, size, size);
    }
  }

  // what the squares mean, and how many there are of each
  function explain() {
    const counts = new Map();
    for (const code of codes) counts.set(code, (counts.get(code) || 0) + 1);
    legend.replaceChildren(...[...counts].sort((a, b) => a[0] - b[0]).map(([code, count]) => {
      const entry = document.createElement("span"), sign = document.createElement("canvas");
      const size = cell - (cell > 3 ? 2 : 1);
      sign.width = sign.height = (size + 2) * ratio;
      sign.style.cssText = `width:${size + 2}px;height:${size + 2}px;margin-right:.4em`;
      sign.setAttribute("aria-hidden", "true");
      const pen = sign.getContext("2d");
      pen.scale(ratio, ratio);
      paint(pen, 1, 1, size, code);
      entry.append(sign, `${count.toLocaleString("en")} ${model.get("palette")[code][0]}`);
      return entry;
    }));
  }

  function tell(trial) {
    words.textContent = trial >= 0 && trial < codes.length ? name(trial) : "";
    range.setAttribute("aria-valuetext", trial >= 0 && trial < codes.length ? name(trial) : "no trial");
  }

  function move(trial, { shown = true } = {}) {
    const before = at;
    at = Math.max(0, Math.min(codes.length - 1, trial));
    range.value = at;
    if (before < codes.length) draw(before);
    if (codes.length) draw(at);
    if (shown) {
      tell(at);
      const top = Math.floor(at / across) * cell;
      if (top < box.scrollTop) box.scrollTop = top;
      if (top + cell > box.scrollTop + box.clientHeight) box.scrollTop = top + cell - box.clientHeight;
    }
  }

  function choose(trial) {
    model.set("chosen", trial);
    model.save_changes();
  }

  function under(event) {
    const place = canvas.getBoundingClientRect();
    const x = Math.floor((event.clientX - place.left) / cell), y = Math.floor((event.clientY - place.top) / cell);
    const trial = y * across + x;
    return x >= 0 && x < across && trial >= 0 && trial < codes.length ? trial : -1;
  }

  canvas.addEventListener("mousemove", (event) => tell(under(event)));
  canvas.addEventListener("mouseleave", () => tell(model.get("chosen")));
  canvas.addEventListener("click", (event) => {
    const trial = under(event);
    if (trial < 0) return;
    range.focus({ preventScroll: true });
    move(trial);
    choose(trial);
  });
  range.addEventListener("focus", () => move(at));
  range.addEventListener("blur", () => { if (at < codes.length) draw(at); });
  range.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across, PageUp: -10 * across, PageDown: 10 * across };
    if (event.key in steps) move(at + steps[event.key]);
    else if (event.key === "Home") move(0);
    else if (event.key === "End") move(codes.length - 1);
    else if (event.key === "Enter" || event.key === " ") choose(at);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  let shown = model.get("chosen");
  function chosen() {
    const before = shown;
    shown = model.get("chosen");
    for (const trial of [before, shown]) if (trial >= 0 && trial < codes.length) draw(trial);
    tell(shown);
  }

  function heard(content, buffers) {
    const bytes = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
    if (content.kind === "all") {
      const before = codes.length;
      codes = bytes(buffers[0]).slice();
      range.max = Math.max(0, codes.length - 1);
      if (codes.length === before) redraw(); else layout();
    } else if (content.kind === "some") {
      const trials = new Uint32Array(bytes(buffers[0]).slice().buffer), news = bytes(buffers[1]);
      trials.forEach((trial, k) => { if (trial < codes.length) { codes[trial] = news[k]; draw(trial); } });
      explain();
    }
    tell(document.activeElement === range ? at : model.get("chosen"));
  }

  resolve();
  model.on("msg:custom", heard);
  model.on("change:chosen", chosen);
  let width = -1;  // the first time it is in the page: only then it has colours
  const sized = new ResizeObserver(() => { if (el.clientWidth !== width) { width = el.clientWidth; resolve(); layout(); } });
  sized.observe(el);
  const themed = new MutationObserver(() => { resolve(); layout(); });
  themed.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name", "class"] });
  model.send({ kind: "ask" });
  return () => {
    model.off("msg:custom", heard);
    model.off("change:chosen", chosen);
    sized.disconnect();
    themed.disconnect();
  };
}
export default { render };
