// The view of a text's steps: each step's tree, a slider through them, and what they brought.
//
// A step is what pytreellama/page/steps.py makes: a tree of guesses under the text's last token
// (node 0), the path of those that the model agreed with, and the tokens that the text goes on with,
// the last of which the model drew itself. Both pages use this file; the static one carries it.

// -- elements

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element with attributes, and children that are elements or texts. */
export function html(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function button(label, icon, onClick) {
  const drawing = svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, svg("path", { d: icon }));
  const made = html("button", { type: "button", "aria-label": label, title: label }, drawing);
  made.addEventListener("click", onClick);
  return made;
}

const ICONS = {
  back: "M11 3 5 8l6 5z",
  on: "M5 3l6 5-6 5z",
  newest: "M3 3l6 5-6 5zM11 3h2v10h-2z",
  play: "M4 2.5v11l9-5.5z",
  pause: "M4 3h3v10H4zM9 3h3v10H9z",
};

// -- texts and numbers

const LONGEST_LABEL = 18;
const WIDE = /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]/;

function shortened(text) {
  const characters = Array.from(text);
  if (characters.length <= LONGEST_LABEL) return text;
  return characters.slice(0, LONGEST_LABEL - 1).join("") + "…";
}

/** How many columns of a monospaced font a text takes, about. */
function cells(text) {
  let n = 0;
  for (const character of text) n += character.length > 1 || WIDE.test(character) ? 2 : 1;
  return n;
}

function percent(p) {
  if (p > 0 && p < 0.01) return "<1%";
  if (p < 1 && p > 0.99) return ">99%";
  return `${Math.round(100 * p)}%`;
}

function rounded(value) {
  if (!Number.isFinite(value)) return "–";
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

function counted(n, noun) {
  return `${n} ${noun}${n === 1 ? "" : noun.endsWith("s") ? "es" : "s"}`;
}

function milliseconds(seconds) {
  return `${rounded(1e3 * seconds)} ms`;
}

function listed(names) {
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}

// -- drafters: a colour and a letter each, so that nobody needs to tell colours apart

const KNOWN_DRAFTERS = ["suffix", "recycling", "medusa", "ngram", "model"];
const N_COLOURS = 6;

class Drafters {
  constructor() {
    this.marks = new Map();
    KNOWN_DRAFTERS.forEach((name) => this.mark(name));
  }

  /** The letter and the class of a drafter's colour. */
  mark(name) {
    if (!this.marks.has(name)) {
      const taken = new Set(Array.from(this.marks.values(), (mark) => mark.letter));
      const letters = Array.from(name.toUpperCase()).filter((one) => /[A-Z0-9]/.test(one));
      const letter = letters.find((one) => !taken.has(one)) ?? letters[0] ?? "?";
      this.marks.set(name, { letter, colour: `d${this.marks.size % N_COLOURS}` });
    }
    return this.marks.get(name);
  }
}

// -- layout: a column a depth, a row a leaf; the accepted path is one straight line

const BOX_HEIGHT = 26;
const ROW_HEIGHT = 36;
const COLUMN_GAP = 40;
const MARGIN = 14;
const TRUNK_LENGTH = 30;
const PADDING = 9;
const CHARACTER_WIDTH = 7.9;
const SMALL_CHARACTER_WIDTH = 6.7;
const CHIP_WIDTH = 18;
const GAP = 7;

/** The step's nodes as boxes, and one more for the token that the model drew after the path. */
function boxesOf(step, drafters) {
  const { texts, parents, p } = step.tree;
  const accepted = new Set(step.path);
  const boxes = texts.map((text, node) => ({
    node,
    text,
    parent: parents[node],
    kind: node === 0 ? "root" : accepted.has(node) ? "accepted" : "guess",
    lit: accepted.has(node),
    p: p?.[node] ?? null,
    names: step.tree.drafters?.[node] ?? [],
    logp: null,
  }));
  const drawn = step.tokens.at(-1);
  step.path.slice(1).forEach((node, i) => (boxes[node].logp = step.tokens[i]?.logp ?? null));
  if (drawn) {
    boxes.push({
      node: boxes.length,
      text: drawn.text,
      parent: step.path.at(-1),
      kind: "drawn",
      lit: true,
      p: drawn.logp === null ? null : Math.exp(drawn.logp),
      names: [],
      logp: drawn.logp,
    });
  }
  for (const box of boxes) {
    box.label = shortened(box.text);
    box.chips = box.names.map((name) => drafters.mark(name));
    box.chance = box.p === null ? "" : percent(box.p);
    box.children = [];
    box.depth = box.parent < 0 ? 0 : boxes[box.parent].depth + 1;
    if (box.parent >= 0) boxes[box.parent].children.push(box);
    const chance = box.chance ? GAP + SMALL_CHARACTER_WIDTH * box.chance.length : 0;
    const chips = box.chips.length ? CHIP_WIDTH * box.chips.length : 0;
    const ends = box.kind === "drawn" ? 8 : 0;
    box.width = 2 * PADDING + CHARACTER_WIDTH * cells(box.label) + chance + chips + ends;
  }
  return boxes;
}

function place(boxes) {
  let nRows = 0;
  const placeBelow = (box) => {
    box.children.forEach(placeBelow);
    const on = box.children.find((child) => child.lit);
    // leaves of different subtrees never interleave, so any child's row is free in this column
    if (!box.children.length) box.row = nRows++;
    else if (box.lit && on) box.row = on.row;
    else box.row = (box.children[0].row + box.children.at(-1).row) / 2;
  };
  boxes.filter((box) => box.parent < 0).forEach(placeBelow);
  const widths = [];
  for (const box of boxes) widths[box.depth] = Math.max(widths[box.depth] ?? 0, box.width);
  const lefts = [TRUNK_LENGTH];
  widths.forEach((width, depth) => (lefts[depth + 1] = lefts[depth] + width + COLUMN_GAP));
  for (const box of boxes) {
    box.x = lefts[box.depth];
    box.y = MARGIN + ROW_HEIGHT * box.row + BOX_HEIGHT / 2;
  }
  const width = lefts.at(-1) - COLUMN_GAP + MARGIN;
  return { width, height: 2 * MARGIN + ROW_HEIGHT * (nRows - 1) + BOX_HEIGHT };
}

// -- drawing

function edge(parent, box) {
  const x0 = parent.x + parent.width;
  const bend = Math.max((box.x - x0) / 2, COLUMN_GAP / 2);
  const end = `${box.x} ${box.y}`;
  const path = svg("path", {
    class: `edge ${box.kind}`,
    d: `M${x0} ${parent.y}C${x0 + bend} ${parent.y} ${box.x - bend} ${box.y} ${end}`,
    pathLength: 1,
    "stroke-width": box.lit ? 4 : (1.2 + 2.2 * (box.p ?? 0.15)).toFixed(2),
  });
  path.style.setProperty("--depth", box.depth);
  return path;
}

function nodeGroup(box) {
  const top = box.y - BOX_HEIGHT / 2;
  const radius = box.kind === "drawn" ? BOX_HEIGHT / 2 : 6;
  const group = svg("g", {
    class: `node ${box.kind}`,
    role: "treeitem",
    tabindex: box.node === 0 ? 0 : -1,
    "aria-level": box.depth + 1,
    "aria-label": detailsOf(box).join(", "),
    "data-node": box.node,
  });
  group.style.setProperty("--depth", box.depth);
  const frame = { x: box.x, y: top, width: box.width, height: BOX_HEIGHT, rx: radius };
  group.append(svg("rect", { class: "box", ...frame }));
  box.chips.forEach((chip, i) => group.append(...chipOf(box, chip, i, top)));
  const end = box.kind === "drawn" ? 4 : 0;
  const left = box.x + PADDING + end + CHIP_WIDTH * box.chips.length;
  group.append(svg("text", { class: "label", x: left, y: box.y }, box.label));
  if (box.chance) {
    const right = box.x + box.width - PADDING - end;
    group.append(svg("text", { class: "chance", x: right, y: box.y, "text-anchor": "end" }, box.chance));
  }
  return group;
}

function chipOf(box, { letter, colour }, i, top) {
  const x = box.x + 4 + CHIP_WIDTH * i;
  const size = BOX_HEIGHT - 8;
  return [
    svg("rect", { class: `chip ${colour}`, x, y: top + 4, width: CHIP_WIDTH - 2, height: size, rx: 3 }),
    svg("text", { class: `letter ${colour}`, x: x + CHIP_WIDTH / 2 - 1, y: box.y }, letter),
  ];
}

/** What there is to say of a node, the token first. */
function detailsOf(box) {
  const lines = [box.text];
  if (box.kind === "root") lines.push("the text's last token");
  if (box.kind === "drawn") lines.push("drawn by the model after the path");
  if (box.kind === "accepted") lines.push("drafted, accepted");
  if (box.kind === "guess") lines.push("drafted, rejected");
  if (box.names.length) lines.push(`proposed by ${listed(box.names)}`);
  if (box.p !== null && box.kind !== "drawn") {
    lines.push(`its path was called ${percent(box.p)} likely`);
  }
  if (box.logp !== null) lines.push(`the model gave it ${percent(Math.exp(box.logp))}`);
  return lines;
}

function drawing(step, drafters) {
  const boxes = boxesOf(step, drafters);
  const { width, height } = place(boxes);
  const sheet = svg("svg", {
    class: "tree-drawing",
    role: "tree",
    "aria-label": headingOf(step),
    viewBox: `0 0 ${width} ${height}`,
  });
  const root = boxes[0];
  sheet.append(svg("path", { class: "trunk", d: `M0 ${root.y}H${root.x}` }));
  const edges = boxes.filter((box) => box.parent >= 0);
  edges.sort((one, other) => one.lit - other.lit); // what is lit lies above
  sheet.append(...edges.map((box) => edge(boxes[box.parent], box)), ...boxes.map(nodeGroup));
  return { sheet, boxes, width, height };
}

function nAccepted(step) {
  return step.path.length - 1;
}

function nGuesses(step) {
  return step.tree.texts.length - 1;
}

function headingOf(step) {
  const n = step.tokens.length;
  const brought = `${counted(n, "token")} in one pass`;
  const took = step.seconds === null ? "" : ` of ${milliseconds(step.seconds)}`;
  if (!nGuesses(step)) return `No draft: ${brought}${took}`;
  return `${nAccepted(step)} of ${counted(nGuesses(step), "draft node")} accepted: ${brought}${took}`;
}

// -- numbers

const N_LAST = 16;

/** What steps brought so far, and over the last of them. */
function numbersOf(steps) {
  const last = steps.slice(-N_LAST);
  const timed = last.filter((step) => step.seconds !== null);
  const planned = last.filter((step) => step.plain_s !== null);
  const rate = sum(timed.map((step) => step.tokens.length)) / sum(timed.map((step) => step.seconds));
  const plainRate = planned.length / sum(planned.map((step) => step.plain_s));
  return {
    accepted: sum(steps.map(nAccepted)) / steps.length,
    rate,
    plainRate,
    speedUp: rate / plainRate,
  };
}

const NUMBERS = [
  ["accepted", "draft nodes accepted per step", "mean of all steps so far", ""],
  ["rate", "tokens a second", `last ${N_LAST} steps`, ""],
  ["plainRate", "tokens a second, plain", "by measured cost", ""],
  ["speedUp", "speed-up", "over plain, by measured cost", "×"],
];

class Numbers {
  constructor() {
    this.values = {};
    this.element = html("dl", { class: "numbers" });
    for (const [key, name, how] of NUMBERS) {
      this.values[key] = html("dd", {}, "–");
      const term = html("dt", {}, name, html("small", {}, how));
      this.element.append(html("div", { class: key }, term, this.values[key]));
    }
  }

  show(steps) {
    const numbers = steps.length ? numbersOf(steps) : {};
    for (const [key, , , unit] of NUMBERS) {
      const text = rounded(numbers[key] ?? NaN);
      this.values[key].textContent = text === "–" ? text : text + unit;
    }
    this.values.speedUp.classList.toggle("gains", numbers.speedUp > 1);
  }
}

// -- series over steps

const N_BARS_MIN = 48;
const N_BARS_MAX = 192;

class Series {
  /** Bars of one value a step; a click on one asks for its step. */
  constructor(name, kind, valueOf, onPick) {
    Object.assign(this, { name, valueOf });
    this.steps = [];
    this.sheet = svg("svg", { class: `series ${kind}`, role: "img", preserveAspectRatio: "none" });
    this.caption = html("span", { class: "value" });
    const heading = html("figcaption", {}, html("span", {}, name), this.caption);
    this.element = html("figure", {}, heading, this.sheet);
    this.sheet.addEventListener("click", (event) => {
      const { left, width } = this.sheet.getBoundingClientRect();
      const slot = Math.floor(((event.clientX - left) / width) * this.nSlots);
      const index = slot * this.perBar;
      if (index < this.steps.length) onPick(index);
    });
  }

  show(steps, index) {
    this.steps = steps;
    this.perBar = Math.max(1, Math.ceil(steps.length / N_BARS_MAX));
    const bars = [];
    for (let i = 0; i < steps.length; i += this.perBar) {
      const values = steps.slice(i, i + this.perBar).map(this.valueOf);
      bars.push(sum(values) / values.length);
    }
    this.nSlots = Math.max(N_BARS_MIN, bars.length);
    const top = Math.max(1, ...bars);
    const here = Math.floor(index / this.perBar);
    this.sheet.setAttribute("viewBox", `0 0 ${this.nSlots} 1`);
    const marker = { class: "here", x: here, y: 0, width: 1, height: 1 };
    this.sheet.replaceChildren(svg("rect", steps.length ? marker : {}));
    bars.forEach((value, i) => this.sheet.append(this.bar(i, value / top, i === here)));
    this.tell(steps, index);
  }

  bar(i, share, isHere) {
    const height = Math.max(share, 0.02); // none at all is a line, not a hole
    const frame = { x: i + 0.12, y: 1 - height, width: 0.76, height };
    return svg("rect", { class: isHere ? "bar current" : "bar", ...frame });
  }

  tell(steps, index) {
    const values = steps.map(this.valueOf);
    const [now, most] = [values[index] ?? 0, Math.max(0, ...values)];
    this.caption.textContent = steps.length ? `${now} · most ${most}` : "";
    const mean = rounded(sum(values) / values.length);
    this.sheet.setAttribute("aria-label", `${this.name}: ${now} at this step, ${mean} on average, at most ${most}`);
  }
}

// -- the legend

class Legend {
  constructor(drafters) {
    this.drafters = drafters;
    this.known = "";
    this.element = html("ul", { class: "legend", "aria-label": "Legend" });
  }

  show(steps) {
    const names = new Set(steps.flatMap((step) => (step.tree.drafters ?? []).flat()));
    const known = Array.from(names).sort().join(" ");
    if (this.element.childElementCount && known === this.known) return;
    this.known = known;
    const order = Array.from(this.drafters.marks.keys());
    names.forEach((name) => order.includes(name) || order.push(name));
    this.element.replaceChildren(
      ...order.filter((name) => names.has(name)).map((name) => this.drafter(name)),
      this.sample("accepted", "accepted"),
      this.sample("guess", "rejected"),
      this.sample("drawn", "the model's own"),
    );
  }

  drafter(name) {
    const { letter, colour } = this.drafters.mark(name);
    return html("li", {}, html("span", { class: `mark ${colour}`, "aria-hidden": "true" }, letter), name);
  }

  sample(kind, name) {
    return html("li", {}, html("span", { class: `sample ${kind}`, "aria-hidden": "true" }), name);
  }
}

// -- the text, with what was guessed marked in it

const OPEN_BOX = "\u2423";
const HALF_CHARACTER = "\ufffd";
const LONGEST_GAP = 16;

/** The characters behind a token's visible text (pytreellama/tree/labels.py writes it). */
function characters(visible) {
  if (visible === "(empty)") return "";
  const spaced = visible.replace(/^\u2423+|\u2423+$/g, (boxes) => " ".repeat(boxes.length));
  return spaced.replace(/\\(?:x(..)|u(....)|U(.{8})|(.))/g, (_, x, u, long, one) => {
    const code = x ?? u ?? long;
    if (code !== undefined) return String.fromCodePoint(parseInt(code, 16));
    return { n: "\n", r: "\r", t: "\t" }[one] ?? one;
  });
}

/**
 * A text that knows which of its tokens were guessed, and by which step they came.
 *
 * Tokens are found in the text one after the other: text and steps may come at different times, and
 * special tokens or bytes of half a character are not found at all.
 */
export class MarkedText {
  constructor(onPick = () => {}) {
    this.tail = document.createTextNode("");
    this.element = html("div", { class: "marked" }, this.tail);
    this.onPick = onPick;
    this.steps = [];
    this.text = "";
    this.cursor = 0;
    this.current = null;
    this.waiting = [];
    this.nRead = 0;
    this.element.addEventListener("click", (event) => {
      const index = event.target.dataset?.step;
      if (index !== undefined && getSelection().isCollapsed) this.onPick(Number(index));
    });
  }

  /** Take in the text so far and the steps so far; both only grow. */
  update(text, steps, isFinished = false) {
    this.text = text;
    for (; this.nRead < steps.length; this.nRead++) this.read(steps[this.nRead], this.nRead);
    this.find(isFinished);
    this.tail.data = text.slice(this.cursor);
  }

  read(step, index) {
    const n = step.tokens.length;
    step.tokens.forEach((token, i) => {
      this.waiting.push({ text: characters(token.text), index, isGuess: i < n - 1 });
    });
  }

  find(isFinished) {
    while (this.waiting.length) {
      const i = this.waiting.findIndex((token) => !token.text.includes(HALF_CHARACTER));
      if (i < 0) return;
      const token = this.waiting[i];
      const rest = this.text.slice(this.cursor);
      const at = this.offset(rest, token, i);
      if (at < 0 && !isFinished && rest.length < token.text.length + LONGEST_GAP * (i > 0)) return;
      // halves of characters take what lies before the next whole token
      if (at > 0) this.mark(at, this.waiting[i - 1]);
      if (at >= 0) this.mark(token.text.length, token);
      this.waiting.splice(0, i + 1);
    }
  }

  /** Where a token stands in the rest of the text; only behind halves may it stand apart. */
  offset(rest, token, nHalves) {
    if (nHalves) return rest.slice(0, LONGEST_GAP + token.text.length).indexOf(token.text);
    if (rest.startsWith(token.text)) return 0;
    // some vocabularies put a space before the first word, which the text does not have
    const bare = token.text.replace(/^ /, "");
    if (this.cursor || !rest.startsWith(bare)) return -1;
    token.text = bare;
    return 0;
  }

  mark(length, { index, isGuess }) {
    if (!length) return;
    const part = this.text.slice(this.cursor, this.cursor + length);
    const span = html("span", { class: isGuess ? "token guessed" : "token", "data-step": index }, part);
    if (index === this.current) span.classList.add("current");
    this.element.insertBefore(span, this.tail);
    this.cursor += length;
  }

  /** Light what one step brought; null for none. */
  light(index) {
    if (index === this.current) return;
    this.current = index;
    for (const span of this.element.querySelectorAll(".current")) span.classList.remove("current");
    if (index === null) return;
    const spans = this.element.querySelectorAll(`[data-step="${index}"]`);
    for (const span of spans) span.classList.add("current");
  }
}

// -- the view

const PLAY_MS = 900;
const ANIMATED_MS = 300;
const SCALE_MIN = 0.75;
const SCALE_MAX = 1.2;

/** A tree with its step's heading, controls, numbers and series, inside one element. */
export class StepView {
  /**
   * @param {Element} element where to put it
   * @param {{empty?: string, onShow?: (index: number) => void}} options a text while there is no
   *     step, and who hears which step is shown
   */
  constructor(element, { empty = "", onShow = () => {} } = {}) {
    this.onShow = onShow;
    this.steps = [];
    this.index = 0;
    this.isFollowing = true;
    this.drafters = new Drafters();
    this.legend = new Legend(this.drafters);
    this.numbers = new Numbers();
    const pick = (index) => this.go(index);
    this.series = [
      new Series("Nodes in the tree", "nodes", (step) => step.tree.texts.length, pick),
      new Series("Draft nodes accepted", "accepted", nAccepted, pick),
    ];
    this.timer = null;
    this.frame = null;
    this.drawnAt = 0;
    this.build(element, empty);
    this.showSteps([]);
    document.addEventListener("keydown", (event) => this.onKey(event));
    new ResizeObserver(() => this.fit()).observe(this.scroller);
  }

  build(element, empty) {
    this.heading = html("p", { class: "heading" });
    this.count = html("strong", {});
    this.scroller = html("div", { class: "scroller" });
    this.empty = html("p", { class: "empty" }, empty);
    this.tip = html("div", { class: "tip", role: "tooltip", id: "tip", hidden: "" });
    this.panel = html("div", { class: "panel" }, this.scroller, this.empty, this.tip);
    this.slider = html("input", { type: "range", min: 1, step: 1, "aria-label": "Step" });
    this.back = button("Step back", ICONS.back, () => this.go(this.index - 1));
    this.on = button("Step on", ICONS.on, () => this.go(this.index + 1));
    this.newest = button("Newest step", ICONS.newest, () => this.follow());
    this.player = button("Play", ICONS.play, () => this.play(this.timer === null));
    const controls = [this.back, this.player, this.on, this.slider, this.newest];
    const keys = html("p", { class: "keys" }, html("kbd", {}, "←"), " ", html("kbd", {}, "→"));
    keys.append(" step by step, ", html("kbd", {}, "space"), " plays");
    element.append(
      html("div", { class: "top" }, this.heading, this.legend.element),
      this.panel,
      html("div", { class: "controls", role: "group", "aria-label": "Steps" }, ...controls),
      keys,
      html("div", { class: "below" }, this.numbers.element, ...this.series.map((one) => one.element)),
    );
    this.slider.addEventListener("input", () => this.go(this.slider.valueAsNumber - 1));
    this.listen();
  }

  listen() {
    const nodeAt = (event) => event.target.closest?.(".node");
    this.scroller.addEventListener("pointerover", (event) => this.explain(nodeAt(event)));
    this.scroller.addEventListener("pointerleave", () => this.explain(null));
    this.scroller.addEventListener("focusin", (event) => this.explain(nodeAt(event)));
    this.scroller.addEventListener("focusout", () => this.explain(null));
    this.scroller.addEventListener("scroll", () => this.explain(this.explained));
    this.scroller.addEventListener("keydown", (event) => this.onTreeKey(event));
  }

  /** Show a list of steps, which may grow later (see ``grown``). */
  showSteps(steps, index = steps.length - 1) {
    this.play(false);
    this.steps = steps;
    this.isFollowing = index >= steps.length - 1;
    this.index = Math.max(index, 0);
    this.schedule();
  }

  /** Hear that the list of steps has grown. */
  grown() {
    if (this.isFollowing && this.timer === null) this.index = Math.max(this.steps.length - 1, 0);
    this.schedule();
  }

  go(index) {
    this.play(false);
    this.move(index);
  }

  move(index) {
    if (!this.steps.length) return;
    this.index = Math.min(Math.max(index, 0), this.steps.length - 1);
    this.isFollowing = this.index === this.steps.length - 1;
    this.schedule();
  }

  follow() {
    this.go(this.steps.length - 1);
  }

  /** Go through the steps by itself, from the first one if the last is shown; or stop that. */
  play(isOn) {
    if (isOn === (this.timer !== null)) return;
    if (isOn && this.steps.length) {
      if (this.index === this.steps.length - 1) this.move(0);
      this.timer = setInterval(() => this.playOn(), PLAY_MS);
    } else {
      clearInterval(this.timer);
      this.timer = null;
    }
    this.label(this.timer !== null);
  }

  playOn() {
    this.move(this.index + 1);
    if (this.index === this.steps.length - 1) this.play(false);
  }

  label(isPlaying) {
    const name = isPlaying ? "Pause" : "Play";
    this.player.setAttribute("aria-label", name);
    this.player.title = name;
    this.player.querySelector("path").setAttribute("d", isPlaying ? ICONS.pause : ICONS.play);
  }

  /** Draw before the next frame, however many steps come until then. */
  schedule() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
  }

  draw() {
    const n = this.steps.length;
    this.empty.hidden = n > 0;
    this.drawTree();
    this.count.textContent = n ? `Step ${this.index + 1} of ${n}` : "";
    const told = n ? headingOf(this.steps[this.index]) : "";
    this.heading.replaceChildren(this.count, html("span", {}, told));
    this.slider.max = Math.max(n, 1);
    this.slider.value = this.index + 1;
    this.slider.setAttribute("aria-valuetext", n ? `${this.count.textContent}. ${told}` : "none");
    this.back.disabled = this.index === 0;
    this.on.disabled = this.newest.disabled = this.index >= n - 1;
    this.slider.disabled = this.player.disabled = n < 2;
    this.legend.show(this.steps);
    this.numbers.show(this.steps.slice(0, this.index + 1));
    for (const one of this.series) one.show(this.steps, this.index);
    this.onShow(n ? this.index : null);
  }

  drawTree() {
    const step = this.steps[this.index];
    if (step === this.shown) return;
    const focused = this.scroller.contains(document.activeElement)
      ? document.activeElement.dataset.node
      : null;
    this.shown = step;
    this.explain(null);
    this.drawn = step ? drawing(step, this.drafters) : null;
    this.scroller.replaceChildren(...(step ? [this.drawn.sheet] : []));
    // trees that pass by in no time stand still
    const now = performance.now();
    if (step) this.drawn.sheet.classList.toggle("moves", now - this.drawnAt > ANIMATED_MS);
    this.drawnAt = now;
    this.fit();
    if (focused !== null && step) (this.nodeElement(focused) ?? this.nodeElement(0)).focus();
  }

  /** Size the drawing, its path in the middle; scroll to the path's end where there is no room. */
  fit() {
    if (!this.drawn) return;
    const { sheet, boxes, width, height } = this.drawn;
    const room = { width: this.scroller.clientWidth, height: this.scroller.clientHeight };
    // lengths are in rem, so that a reader's larger letters make larger trees
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const across = room.width / ((width * rem) / 16);
    const down = room.height / ((height * rem) / 16);
    // a high tree is scrolled through rather than made smaller than it needs to be
    const fits = Math.min(across, Math.max(down, 1));
    const scale = Math.min(SCALE_MAX, Math.max(SCALE_MIN, fits));
    sheet.setAttribute("width", `${(width * scale) / 16}rem`);
    sheet.setAttribute("height", `${(height * scale) / 16}rem`);
    const pixels = (scale * rem) / 16;
    const slack = room.height - height * pixels;
    const above = room.height / 2 - boxes[0].y * pixels;
    sheet.style.marginTop = `${Math.max(0, Math.min(above, slack))}px`;
    const end = boxes.at(-1);
    this.scroller.scrollLeft = (end.x + end.width) * pixels - room.width + MARGIN;
    this.scroller.scrollTop = boxes[0].y * pixels - room.height / 2;
  }

  nodeElement(node) {
    return this.scroller.querySelector(`[data-node="${node}"]`);
  }

  explain(element) {
    this.explained = element?.isConnected ? element : null;
    this.tip.hidden = !this.explained;
    if (!this.explained) return;
    const [token, ...lines] = detailsOf(this.drawn.boxes[Number(element.dataset.node)]);
    this.tip.replaceChildren(html("code", {}, token), ...lines.map((line) => html("span", {}, line)));
    const panel = this.panel.getBoundingClientRect();
    const box = element.querySelector(".box").getBoundingClientRect();
    const x = box.left - panel.left;
    const below = box.bottom - panel.top + 6;
    const fitsBelow = below + this.tip.offsetHeight < panel.height;
    const above = box.top - panel.top - this.tip.offsetHeight - 6;
    this.tip.style.left = `${Math.max(4, Math.min(x, panel.width - this.tip.offsetWidth - 4))}px`;
    this.tip.style.top = `${fitsBelow ? below : Math.max(4, above)}px`;
  }

  // -- keys

  onKey(event) {
    if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey) return;
    const { target } = event;
    if (target.closest?.("input, textarea, select")) return;
    const go = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (go !== undefined && this.steps.length) {
      event.preventDefault();
      this.go(this.index + go);
    } else if (event.key === " " && this.steps.length > 1 && !target.closest?.("button, summary, a")) {
      event.preventDefault();
      this.play(this.timer === null);
    }
  }

  /** Arrows go from node to node while one of them has the focus. */
  onTreeKey(event) {
    if (event.key === "Escape") this.explain(null);
    const box = this.drawn?.boxes[Number(event.target.dataset?.node)];
    if (!box || event.ctrlKey || event.altKey || event.metaKey) return;
    const next = {
      ArrowRight: () => box.children.find((child) => child.lit) ?? box.children[0],
      ArrowLeft: () => this.drawn.boxes[box.parent],
      ArrowUp: () => this.beside(box, -1),
      ArrowDown: () => this.beside(box, 1),
      Home: () => this.drawn.boxes[0],
      End: () => this.drawn.boxes.at(-1),
    }[event.key];
    if (!next) return;
    event.preventDefault();
    const to = next();
    if (!to) return;
    const element = this.nodeElement(to.node);
    event.target.setAttribute("tabindex", -1);
    element.setAttribute("tabindex", 0);
    element.scrollIntoView({ block: "nearest", inline: "nearest" });
    element.focus({ preventScroll: true });
  }

  /** The node above or below in the same column. */
  beside(box, way) {
    const column = this.drawn.boxes.filter((one) => one.depth === box.depth);
    column.sort((one, other) => one.row - other.row);
    return column[column.indexOf(box) + way];
  }
}
