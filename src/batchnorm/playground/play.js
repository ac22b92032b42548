"use strict";

/** The place to play itself: what is drawn or chosen, its company, and what is shown of the network's answers. */
(() => {
  const MOST_SHOWN = 12; // classes
  const MOST_BUTTONS = 20; // examples to choose from
  const FIRST_SIZE = 49; // of the company
  const STEP = 1 / 40; // of the keyboard's pen, as a share of the canvas
  const NEAREST = 1 / 200; // that two points of a stroke may be: a mouse tells hundreds a second
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const byId = (name) => document.getElementById(`play-${name}`);
  const page = JSON.parse(byId("document").textContent);
  const { inputs, outputs } = page;
  const { width, height, channels } = inputs;
  const network = page.network && playground.read(page.network);
  const isNormalizing = Boolean(network?.layers.some((layer) => layer.norm));
  const isDarkOnLight = inputs.ink < inputs.background;
  const canvas = byId("canvas");
  const brush = canvas.getContext("2d");
  const longer = Math.max(canvas.width, canvas.height);
  const examples = readExamples();
  const kinds = [...new Set(examples.map((one) => one.kind))];
  let pool = [...examples]; // in the order in which they become company
  let wanted = FIRST_SIZE;
  let strokes = [];
  let chosen = examples[0] ?? null; // what is shown unless something is drawn
  let cursor = null; // of the keyboard: [x, y]
  let isDown = false;
  let seed = 1;

  function readExamples() {
    if (!page.examples) return [];
    const { images, count, classes } = page.examples;
    const [all, size] = [playground.decode(images), channels * width * height];
    const kindOf = (i) => (classes ? outputs.names[classes[i]] : "image");
    const example = (_, i) => ({ values: all.subarray(i * size, (i + 1) * size), kind: kindOf(i) });
    return Array.from({ length: count }, example);
  }

  function made(name, parent, text = "") {
    const element = document.createElement(name);
    element.textContent = text; // never HTML: names are anybody's
    parent.append(element);
    return element;
  }

  function paint(target, image, x = 0, y = 0) {
    const [low, high] = [Math.min(inputs.ink, inputs.background), Math.max(inputs.ink, inputs.background)];
    const pixels = new ImageData(width, height);
    for (let at = 0; at < width * height; at++) {
      for (let colour = 0; colour < 3; colour++) {
        const value = image[at + (channels === 3 ? colour * width * height : 0)];
        pixels.data[4 * at + colour] = (255 * (value - low)) / (high - low || 1);
      }
      pixels.data[4 * at + 3] = 255;
    }
    target.getContext("2d").putImageData(pixels, x, y);
  }

  /** The values of the image that is classified now, or null while nothing is drawn or chosen. */
  function current() {
    if (!strokes.length) return chosen && chosen.values;
    return inked(playground.picture(inputs, strokes, Number(byId("pen").value)));
  }

  const inked = (coverage) => playground.values(inputs, coverage, byId("inverted").checked !== isDarkOnLight);

  function showDrawing(image) {
    const [paper, ink] = byId("inverted").checked ? ["#fff", "#000"] : ["#000", "#fff"];
    const seen = byId("seen");
    paint(seen, image ?? inked(new Float64Array(width * height)));
    brush.fillStyle = paper;
    brush.fillRect(0, 0, canvas.width, canvas.height);
    brush.imageSmoothingEnabled = false;
    if (image && !strokes.length) brush.drawImage(seen, 0, 0, canvas.width, canvas.height);
    brush.strokeStyle = ink;
    brush.lineWidth = Number(byId("pen").value) * inputs.extent * Math.min(canvas.width, canvas.height);
    brush.lineCap = brush.lineJoin = "round";
    for (const stroke of strokes) {
      brush.beginPath();
      for (const [x, y] of [stroke[0], ...stroke]) brush.lineTo(x * longer, y * longer);
      brush.stroke();
    }
    if (cursor) showCursor();
    byId("examples")?.childNodes.forEach((button, i) => button.setAttribute("aria-pressed", examples[i] === chosen));
  }

  function showCursor() {
    brush.lineWidth = 3;
    brush.strokeStyle = isDown ? "#e33" : "#888";
    brush.strokeRect(cursor[0] * longer - 8, cursor[1] * longer - 8, 16, 16);
  }

  /** Who may be company now: of the class that is asked for, and another image than the one that is looked at. */
  function others() {
    const asked = byId("kind")?.value;
    return pool.filter((one) => one !== chosen && (!asked || one.kind === kinds[asked]));
  }

  function shuffle() {
    for (let i = pool.length - 1; i > 0; i--) {
      seed = (seed * 48271) % 2147483647; // Park and Miller's: the same order whenever the page is opened
      const j = seed % (i + 1);
      [pool[i], pool[j]] = [pool[j], pool[i]];
    }
  }

  const counted = (n) => `${n}\u00a0other${n === 1 ? "" : "s"}`;

  /** Show the company in the batch; return it. */
  function showCompany() {
    const candidates = others();
    byId("size").max = Math.max(1, candidates.length);
    byId("size").value = Math.min(wanted, candidates.length);
    const company = candidates.slice(0, wanted);
    const columns = Math.max(1, Math.min(company.length, 24, Math.floor(700 / (width + 2))));
    const montage = byId("company");
    montage.width = columns * (width + 2);
    montage.style.width = `${columns * Math.max(width + 2, 16)}px`; // small images are shown larger
    montage.height = Math.ceil(company.length / columns) * (height + 2);
    const place = (i) => [(i % columns) * (width + 2), Math.floor(i / columns) * (height + 2)];
    company.forEach((one, i) => paint(montage, one.values, ...place(i)));
    const counts = new Map();
    for (const { kind } of company) counts.set(kind, (counts.get(kind) ?? 0) + 1);
    const said = [...counts].map(([kind, n]) => `${n} × ${kind}`).join(", ");
    montage.setAttribute("aria-label", `The others in the batch: ${said || "none yet"}`);
    byId("others").textContent = counted(company.length);
    return company;
  }

  const isOfValues = outputs.task === "regression";
  const inWords = (figure) => (isOfValues ? figure.toPrecision(5) : `${(100 * figure).toFixed(1)}\u00a0%`);

  /** Show probabilities or values, a row each; of many classes those that are highest in either answer. */
  function showAnswers(answers) {
    const order = outputs.names.map((_, i) => i);
    const highest = (i) => Math.max(...answers.map((one) => one[i]));
    if (order.length > MOST_SHOWN) order.sort((one, other) => highest(other) - highest(one)).length = MOST_SHOWN;
    byId("answers").replaceChildren();
    for (const i of order) {
      const row = made("tr", byId("answers"));
      made("th", row, outputs.names[i]).scope = "row";
      for (let column = 0; column <= Number(isNormalizing); column++) showFigure(made("td", row), answers[column], i);
    }
    const more = outputs.names.length - order.length;
    if (more) made("td", made("tr", byId("answers")), `and ${more} more`).colSpan = 3;
  }

  function showFigure(cell, answer, i) {
    cell.textContent = answer ? inWords(answer[i]) : "–";
    if (isOfValues) return;
    const track = made("div", cell);
    track.className = "play-track";
    const bar = made("div", track);
    bar.className = "play-bar";
    bar.style.width = `${answer ? 100 * answer[i] : 0}%`;
    if (answer && outputs.task === "classification" && i === largest(answer)) cell.className = "play-best";
  }

  const largest = (figures) => figures.reduce((best, figure, i) => (figure > figures[best] ? i : best), 0);

  /** The two answers, and how they differ, in words. */
  function inSentences([alone, together], n) {
    const named = (one) => `${outputs.names[largest(one)]} (${inWords(one[largest(one)])})`;
    const isOfClasses = outputs.task === "classification";
    const first = isOfClasses ? `By inference: ${named(alone)}. ` : "";
    if (!isNormalizing) return first;
    if (!together) return `${first}A batch needs at least one other image.`;
    const gaps = alone.map((figure, i) => Math.abs(together[i] - figure));
    const at = largest(gaps);
    const gap = isOfValues ? inWords(gaps[at]) : `${(100 * gaps[at]).toFixed(1)} percentage points`;
    const last = `The largest difference is ${gap}, for ${outputs.names[at]}.`;
    if (!isOfClasses) return `The same image, by inference and in a batch with ${counted(n)}. ${last}`;
    const title = largest(alone) === largest(together) ? "" : "The same image, another answer. ";
    return `${title}${first}In a batch with ${counted(n)}: ${named(together)}. ${last}`;
  }

  /** Show all that depends on the image and its company; say it where the reader has come to an end. */
  function update(isSaid = true) {
    const image = current();
    showDrawing(image);
    if (!network) return;
    const company = isNormalizing ? showCompany() : [];
    const batch = [image, ...company.map((one) => one.values)];
    const answers = [];
    const add = (images, inBatch) => {
      const scaled = images.map((one) => one.map((value) => value * inputs.scale));
      answers.push([...playground.answer(outputs, playground.logits(network, scaled, inBatch)[0])]);
    };
    if (image) add([image], false);
    if (image && company.length) add(batch, true);
    showAnswers(answers);
    if (isSaid) byId("said").textContent = image ? inSentences(answers, company.length) : "Nothing is drawn yet.";
  }

  let isDue = false;
  function updateSoon() {
    if (isDue) return;
    isDue = true;
    requestAnimationFrame(() => {
      isDue = false;
      update(false);
    });
  }

  function show(example) {
    [strokes, chosen, isDown] = [[], example, false];
    update();
  }

  function begin(point) {
    chosen = null;
    strokes.push([point]);
    updateSoon();
  }

  function go(points) {
    const stroke = strokes.at(-1);
    for (const [x, y] of points) {
      const [x0, y0] = stroke.at(-1);
      if (Math.hypot(x - x0, y - y0) >= NEAREST) stroke.push([x, y]);
    }
    updateSoon();
  }

  const within = ([x, y]) => [
    Math.min(canvas.width / longer, Math.max(0, x)),
    Math.min(canvas.height / longer, Math.max(0, y)),
  ];

  /** Where on the canvas an event is, as shares of its longer side. */
  function placeOf({ clientX, clientY }) {
    const { left, top } = canvas.getBoundingClientRect();
    const share = canvas.width / longer / canvas.clientWidth;
    return within([(clientX - left - canvas.clientLeft) * share, (clientY - top - canvas.clientTop) * share]);
  }

  let pointer = null; // that draws: fingers beside it do not
  canvas.addEventListener("pointerdown", (event) => {
    if (pointer !== null || event.button !== 0) return;
    [pointer, cursor, isDown] = [event.pointerId, null, false];
    canvas.setPointerCapture(pointer);
    begin(placeOf(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerId !== pointer) return;
    const all = event.getCoalescedEvents?.() ?? [];
    go((all.length ? all : [event]).map(placeOf));
  });
  for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) {
    canvas.addEventListener(name, (event) => {
      if (event.pointerId !== pointer) return;
      pointer = null;
      update();
    });
  }

  canvas.addEventListener("keydown", (event) => {
    if (!(event.key in ARROWS) && event.key !== " ") return;
    event.preventDefault(); // the page would scroll
    cursor ??= [canvas.width / longer / 2, canvas.height / longer / 2];
    if (event.key === " ") {
      isDown = !isDown;
      if (isDown) begin(cursor);
      else update();
      return;
    }
    const [x, y] = ARROWS[event.key];
    cursor = within([cursor[0] + x * STEP, cursor[1] + y * STEP]);
    if (isDown) go([cursor]);
    else updateSoon();
  });

  function on(name, event, act) {
    byId(name)?.addEventListener(event, () => {
      act(byId(name));
      update();
    });
  }

  on("clear", "click", () => show(null));
  on("pen", "input", () => {});
  on("inverted", "change", () => {});
  on("kind", "change", () => {});
  on("shuffle", "click", shuffle);
  on("size", "input", (size) => (wanted = Number(size.value)));
  on("keep", "click", () => {
    const values = current();
    if (values) pool = [...pool, { values, kind: "drawing" }];
    show(null);
  });

  for (const [i, example] of examples.slice(0, MOST_BUTTONS).entries()) {
    const button = made("button", byId("examples"));
    button.type = "button";
    button.setAttribute("aria-label", `Example ${i + 1}: ${example.kind}`);
    const small = made("canvas", button);
    [small.width, small.height] = [width, height];
    paint(small, example.values);
    button.addEventListener("click", () => show(example));
  }
  if (byId("kind")) kinds.forEach((kind, i) => (made("option", byId("kind"), kind).value = i));
  byId("parts").hidden = false;
  update();
})();
