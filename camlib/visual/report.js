"use strict";
// What the report shows comes from files and names of anyone: it is only ever set as text.
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const root = document.documentElement;
const names = data.numbers;
const all = data.pictures.map(([name, predicted, truth, numbers, photo, map], number) => ({
  number, name, predicted, truth, numbers, photo, map,
  words: [name, data.classes[predicted], truth === null ? "" : data.classes[truth]].join("\n")
    .toLowerCase(),
}));
const probability = names.indexOf("probability");
const truths = all.some((each) => each.truth !== null);
let found = all;
let columns = 1, side = 0, tall = 0;
let shown = new Map();
let open = 0;

function element(kind, properties = {}, ...children) {
  const made = Object.assign(document.createElement(kind), properties);
  made.append(...children);
  return made;
}

function source(number) {
  return typeof number === "number" ? data.folder + String(number).padStart(6, "0") + "-camlib.webp"
    : number;
}

function percent(value) {
  return `${(100 * value).toFixed(1)} %`;
}

function said(value) {
  return value === null ? "unknown" : Number(value.toPrecision(4)).toString();
}

function pictured(photo, map) {
  const here = element("span", { className: "picture" });
  const below = element("img", { src: source(photo), alt: "", decoding: "async" });
  here.append(below, element("img", { src: source(map), alt: "", className: "map",
    decoding: "async" }));
  return here;
}

function answered(each) {
  const name = data.classes[each.predicted];
  const chance = probability < 0 ? null : each.numbers[probability];
  return chance === null ? name : `${name}, ${percent(chance)}`;
}

function judged(each) {
  if (each.truth === null) return "";
  return each.truth === each.predicted ? "\u2713 right" : `\u2717 is ${data.classes[each.truth]}`;
}

function card(each, act) {
  const text = element("span", { className: "text" },
    element("span", { textContent: answered(each) }));
  if (truths) {
    text.append(element("span", { textContent: judged(each) || "\u00a0",
      className: each.truth === each.predicted ? "right" : "wrong" }));
  }
  text.append(element("span", { className: "name", textContent: each.name }));
  return element("button", { type: "button", className: "card", title: each.name, onclick: act },
    pictured(each.photo, each.map), text);
}

// The grid holds only the cards in sight, so that ten thousand scroll as ten do.
function measure() {
  const width = at("grid").clientWidth;
  columns = Math.max(2, Math.floor(width / 176));
  side = width / columns;
  tall = Math.ceil(side + (truths ? 4.6 : 3.4) * 16);
  at("grid").style.height = `${Math.ceil(found.length / columns) * tall}px`;
}

function draw() {
  const top = -at("grid").getBoundingClientRect().top;
  const first = Math.max(0, Math.floor(top / tall) - 2) * columns;
  const last = Math.min(found.length, (Math.ceil((top + innerHeight) / tall) + 2) * columns);
  for (const [place, item] of shown) {
    if (place < first || place >= last) {
      item.remove();
      shown.delete(place);
    }
  }
  const added = document.createDocumentFragment();
  for (let place = first; place < last; place++) {
    if (shown.has(place)) continue;
    const item = element("div", { role: "listitem" }, card(found[place], () => enlarge(place)));
    item.setAttribute("aria-setsize", found.length);
    item.setAttribute("aria-posinset", place + 1);
    item.dataset.place = place;
    item.style.width = `${side}px`;
    item.style.height = `${tall}px`;
    const x = (place % columns) * side, y = Math.floor(place / columns) * tall;
    item.style.transform = `translate(${x}px, ${y}px)`;
    shown.set(place, item);
    added.append(item);
  }
  at("grid").append(added);
}

function redraw() {
  for (const item of shown.values()) item.remove();
  shown = new Map();
  measure();
  draw();
}

function filter() {
  const words = at("search").value.toLowerCase();
  const predicted = at("predicted").value, truth = at("truth").value;
  const answer = at("answer").value;
  const low = Number(at("low").value) / 100, high = Number(at("high").value || 100) / 100;
  found = all.filter((each) => {
    if (predicted !== "" && each.predicted !== Number(predicted)) return false;
    if (truth !== "" && each.truth !== Number(truth)) return false;
    if (answer && (each.truth === null
      || (each.truth === each.predicted) !== (answer === "right"))) return false;
    const chance = probability < 0 ? null : each.numbers[probability];
    if (chance !== null && (chance < low || chance > high)) return false;
    return !words || each.words.includes(words);
  });
  const down = at("order").getAttribute("aria-pressed") === "true" ? -1 : 1;
  const by = at("sort").value;
  const value = by === "given" ? (each) => each.number
    : by === "name" ? (each) => each.name : (each) => each.numbers[Number(by)];
  found.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    // What has no such number comes last, either way.
    if (x === null || y === null) return (x === null) - (y === null) || a.number - b.number;
    return down * (x < y ? -1 : x > y ? 1 : 0) || a.number - b.number;
  });
  const count = new Intl.NumberFormat("en");
  let line = `${count.format(found.length)} of ${count.format(all.length)} pictures`;
  const known = found.filter((each) => each.truth !== null);
  if (known.length) {
    line += `, ${percent(known.filter((e) => e.truth === e.predicted).length / known.length)} right`;
  }
  at("count").textContent = line;
  redraw();
}

function focus(place) {
  place = Math.max(0, Math.min(found.length - 1, place));
  const grid = at("grid").getBoundingClientRect(), head = document.querySelector("header");
  const top = grid.top + Math.floor(place / columns) * tall, start = head.offsetHeight;
  if (top < start) scrollBy(0, top - start);
  else if (top + tall > innerHeight) scrollBy(0, top + tall - innerHeight);
  draw();
  shown.get(place)?.firstChild.focus({ preventScroll: true });
}

function enlarge(place) {
  open = Math.max(0, Math.min(found.length - 1, place));
  detail(found[open]);
}

function detail(each) {
  at("large-name").textContent = each.name;
  at("large-picture").replaceChildren(pictured(each.photo, each.map));
  const facts = [["predicted", data.classes[each.predicted]]];
  if (each.truth !== null) facts.push(["true class", data.classes[each.truth]]);
  names.forEach((name, i) => facts.push([name,
    i === probability && each.numbers[i] !== null ? percent(each.numbers[i])
      : said(each.numbers[i])]));
  at("large-facts").replaceChildren(...facts.flatMap(([name, value]) =>
    [element("dt", { textContent: name }), element("dd", { textContent: value })]));
  if (!at("large").open) at("large").showModal();
}

function classes() {
  if (at("classes").childElementCount) return;
  const elsewhere = names.indexOf("elsewhere");
  const members = data.classes.map(() => []);
  for (const each of all) members[each.predicted].push(each);
  for (const [index, photo, map] of data.averages) {
    const own = members[index];
    const known = own.filter((each) => each.truth !== null);
    let line = `${own.length} predicted`;
    if (known.length) {
      const right = known.filter((each) => each.truth === index).length;
      line += `, ${percent(right / known.length)} of them right`;
    }
    const far = own.filter((each) => each.numbers[elsewhere] !== null)
      .sort((a, b) => b.numbers[elsewhere] - a.numbers[elsewhere]).slice(0, 5);
    const row = element("div", { className: "row" });
    const average = element("span", { className: "picture" },
      element("img", { src: source(photo), loading: "lazy", alt: "" }));
    const where = element("span", { className: "picture" },
      element("img", { src: source(map), loading: "lazy", alt: "" }));
    row.append(
      element("figure", {}, average, element("figcaption", { textContent: "average picture" })),
      element("figure", {}, where, element("figcaption", { textContent: "average map" })));
    const section = element("div", { className: "class" },
      element("h2", { textContent: data.classes[index] }), element("p", { textContent: line }), row);
    if (far.length) {
      const others = element("div", { className: "row" });
      for (const each of far) {
        others.append(card(each, () => { found = own; enlarge(own.indexOf(each)); }));
      }
      section.append(element("h3", { textContent: "Maps that lie elsewhere, the farthest first",
        className: "name" }), others);
    }
    at("classes").append(section);
  }
}

function view(which) {
  at("pictures").hidden = which !== "pictures";
  at("classes").hidden = which !== "classes";
  for (const each of ["pictures", "classes"]) {
    at(`show-${each}`).setAttribute("aria-pressed", each === which);
  }
  if (which === "classes") classes();
  else filter();
  scrollTo(0, 0);
}

function theme(dark) {
  root.dataset.theme = dark ? "dark" : "light";
}

function mix(share) {
  at("mix").value = 100 * share;
  root.style.setProperty("--mix", share);
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = /^(INPUT|SELECT)$/.test(event.target.tagName);
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (at("large").open) {
    if (step) enlarge(open + step);
    return;
  }
  if (typing) return;
  const place = event.target.closest?.("[data-place]")?.dataset.place;
  const steps = { ...{ ArrowLeft: -1, ArrowRight: 1 }, ArrowUp: -columns, ArrowDown: columns };
  if (event.key in steps && place !== undefined) focus(Number(place) + steps[event.key]);
  else if (event.key === "Home" && place !== undefined) focus(0);
  else if (event.key === "End" && place !== undefined) focus(found.length - 1);
  else if (event.key === "/") {
    if (at("classes").hidden === false) view("pictures");
    at("filters").open = true;
    at("search").focus();
  } else if (event.key === "m") mix(Number(at("mix").value) > 0 ? 0 : data.alpha || 0.5);
  else if (event.key === "c") view(at("classes").hidden ? "classes" : "pictures");
  else if (event.key === "t") theme(root.dataset.theme !== "dark");
  else return;
  event.preventDefault();
}

function start() {
  document.title = at("title").textContent = data.title;
  at("note").textContent = data.note;
  const preferred = matchMedia("(prefers-color-scheme: dark)");
  theme(preferred.matches);
  preferred.onchange = () => theme(preferred.matches);
  mix(data.alpha);
  const option = (value, text) => element("option", { value, textContent: text });
  const sorted = [...data.classes.keys()]
    .sort((a, b) => data.classes[a].localeCompare(data.classes[b]));
  const used = (key) => new Set(all.map((each) => each[key]));
  for (const key of ["predicted", "truth"]) {
    const there = used(key);
    at(key).append(...sorted.filter((i) => there.has(i)).map((i) => option(i, data.classes[i])));
  }
  at("sort").append(option("given", "order of the files"), option("name", "name"),
    ...names.map((name, i) => option(i, name)));
  for (const each of document.querySelectorAll("[data-truth]")) each.hidden = !truths;
  at("filters").open = matchMedia("(min-width: 40rem)").matches;
  for (const id of ["search", "predicted", "truth", "answer", "low", "high", "sort"]) {
    at(id).addEventListener("input", filter);
  }
  at("order").onclick = () => {
    at("order").setAttribute("aria-pressed", at("order").getAttribute("aria-pressed") === "false");
    filter();
  };
  at("reset").onclick = () => {
    for (const id of ["search", "predicted", "truth", "answer"]) at(id).value = "";
    [at("low").value, at("high").value, at("sort").value] = [0, 100, "given"];
    at("order").setAttribute("aria-pressed", false);
    filter();
  };
  at("mix").oninput = () => mix(Number(at("mix").value) / 100);
  at("theme").onclick = () => theme(root.dataset.theme !== "dark");
  at("show-pictures").onclick = () => view("pictures");
  at("show-classes").onclick = () => view("classes");
  at("before").onclick = () => enlarge(open - 1);
  at("after").onclick = () => enlarge(open + 1);
  at("close").onclick = () => at("large").close();
  at("filters").ontoggle = draw;
  let waiting = false;
  addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; if (!at("pictures").hidden) draw(); });
  }, { passive: true });
  new ResizeObserver(() => { if (at("grid").clientWidth !== Math.round(side * columns)) redraw(); })
    .observe(at("grid"));
  addEventListener("keydown", keys);
  filter();
}

start();
