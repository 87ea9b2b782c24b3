"use strict";
// The studio: a run is chosen, then a scope; every edit of the calendar asks the service again for both futures.
const $ = (id) => document.getElementById(id);
const state = { key: "", about: null, edits: new Map(), added: [], answer: null, asked: 0 };
const DAY = 86400000;
const SHOWN_PAST = 4;
const day = (text) => Date.parse(text + "T00:00:00Z");
const iso = (ms) => new Date(ms).toISOString().slice(0, 10);
const shown = (ms) => new Date(ms).toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });

function number(value, digits) {
  const places = digits ?? (Math.abs(value) >= 1000 ? 0 : Math.abs(value) >= 10 ? 1 : Math.abs(value) >= 0.1 ? 2 : 3);
  return Number(value).toLocaleString("en-GB", { minimumFractionDigits: 0, maximumFractionDigits: places });
}
const signed = (value) => (value > 0 ? "+" : value < 0 ? "−" : "±") + number(Math.abs(value));

function make(name, attributes = {}, ...children) {
  const isDrawn = ["svg", "g", "path", "line", "rect", "text", "circle", "title"].includes(name);
  const node = isDrawn ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

// the service --------------------------------------------------------------------------------------------------------

async function ask(path, body) {
  const headers = { "Content-Type": "application/json" };
  if (state.key) headers.Authorization = "Bearer " + state.key;
  const method = body ? "POST" : "GET";
  const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  const error = told ? told.error : { expected: "an answer", found: "status " + response.status, where: "", fix: "" };
  throw Object.assign(new Error(error.expected), { told: error, status: response.status });
}

function trouble(error) {
  const box = $("trouble");
  box.hidden = !error;
  if (!error) return;
  if (error.status === 401) { $("lock").hidden = false; $("key").focus(); }
  const told = error.told || { expected: "an answer from the service", found: error.message, where: "", fix: "is it running?" };
  const lines = [["Expected", told.expected], ["Found", told.found], ["Where", told.where], ["To do", told.fix]];
  box.textContent = lines.filter(([, text]) => text).map(([name, text]) => `${name}: ${text}`).join("\n");
}

async function begin() {
  try {
    const { runs } = await (await ask("v1/runs")).json();
    $("lock").hidden = true;
    trouble(null);
    $("run").replaceChildren(...runs.map((one) => make("option", { value: one.run }, one.run)));
    $("pick-run").hidden = runs.length < 2;
    $("studio").hidden = false;
    await openRun(runs[0].run);
  } catch (error) { trouble(error); }
}

async function openRun(name) {
  const about = await (await ask("v1/runs/" + encodeURIComponent(name))).json();
  state.about = about;
  state.edits.clear();
  state.added = [];
  const isDays = about.kind === "days", isLives = about.kind === "lives";
  $("days").hidden = !isDays;
  $("happenings").hidden = about.kind !== "events";
  $("lives").hidden = !isLives;
  if (!isDays) $("pick-user").hidden = false;
  document.querySelectorAll(".of-days").forEach((label) => { label.hidden = !isDays; });
  $("about").textContent = `${about.run}: ${number(about.n_users)} users, as of ${about.as_of}` +
    (isDays ? `, the next ${about.horizon} days` : isLives ? `, ${number(about.n_interests)} interests in ${about.d_vector} numbers`
      : `, next ${about.field}`);
  if (isLives) { clearLife(); return; }
  if (!isDays) { $("fortnight-section").hidden = !about.can_generate; return; }
  const scopes = [make("option", { value: "" }, `Everybody (${number(about.n_users)})`)];
  for (const [segment, values] of Object.entries(about.segments)) {
    const options = values.map((one) => make("option", { value: JSON.stringify([segment, one.value]) },
      `${one.value} (${number(one.n_users)})`));
    scopes.push(make("optgroup", { label: segment }, ...options));
  }
  scopes.push(make("option", { value: "user" }, "One user"));
  $("scope").replaceChildren(...scopes);
  $("pick-user").hidden = true;
  const withDays = about.targets.filter((one) => one.has_days);
  $("target").replaceChildren(...withDays.map((one) => make("option", { value: one.name }, `${one.name}: ${one.define}`)));
  $("new-type").replaceChildren(...about.event_types.map((kind) => make("option", {}, kind)));
  $("new-audience").replaceChildren(make("option", { value: "" }, "everyone"),
    ...about.audiences.map((name) => make("option", { value: name }, name)));
  const first = iso(day(about.as_of) + 15 * DAY);
  for (const id of ["new-start", "new-end"]) {
    $(id).min = iso(day(about.as_of) + DAY);
    $(id).value = first;
  }
  $("add").hidden = about.event_types.length === 0;
  drawGate();
  drawCalendar();
  await refresh();
}

function scope() {
  const chosen = $("scope").value;
  if (chosen === "user") return { user: $("user").value.trim() };
  if (!chosen) return {};
  const [segment, value] = JSON.parse(chosen);
  return { segment, value };
}

function edits() {
  return [...[...state.edits.values()].flat(), ...state.added];
}

async function refresh() {
  const mine = ++state.asked;
  const whom = scope();
  if (whom.user === "") return;
  document.body.classList.add("is-waiting");
  try {
    const alternatives = edits().length ? [{ name: "edited", edits: edits() }] : [];
    const path = `v1/runs/${encodeURIComponent(state.about.run)}/totals`;
    const answer = await (await ask(path, { scope: whom, alternatives })).json();
    if (mine !== state.asked) return; // a later question is on its way
    state.answer = answer;
    trouble(null);
    draw();
    if (!alternatives.length) await drawAlike(whom.user, mine);
  } catch (error) {
    if (mine === state.asked) trouble(error);
  } finally {
    if (mine === state.asked) {
      document.body.classList.remove("is-waiting");
      document.documentElement.dataset.drawn = String(mine);
    }
  }
}

// the answer ---------------------------------------------------------------------------------------------------------

function draw() {
  const { answer } = state;
  const target = $("target").value;
  const daily = answer.daily.find((one) => one.target === target);
  const rows = answer.rows.filter((one) => one.target === target);
  drawNumbers(rows, daily);
  drawForecast(daily, answer.past, target);
  drawDifference(daily);
  drawTable(daily);
  drawTotals(answer);
  const say = (one) => `${one.event} (${one.start}${one.was ? ", before " + one.was : ""}) ${one.what}: ${one.kind}, ` +
    `${one.n_past} past events of this kind${one.warning ? "; " + one.warning : ""}.`;
  $("evidence").replaceChildren(...answer.changes.map((one) => make("li", {}, say(one))));
  $("notes").replaceChildren(...answer.notes.map((note) => make("li", {}, note)));
}

function drawNumbers(rows, daily) {
  const unit = daily ? daily.unit : "";
  const [planned, edited] = rows;
  const box = (kind, name, value, more) => make("div", { class: kind }, name, make("b", {}, value), more);
  const range = planned.total_low === null ? "no band is known" : `${number(planned.total_low)} to ${number(planned.total_high)}`;
  const parts = [box("planned", `as planned, ${unit}`, number(planned.total), range)];
  if (edited) {
    const byDays = edited.day_difference !== null;
    const value = byDays ? edited.day_difference : edited.difference;
    const low = byDays ? edited.day_low : edited.low;
    const high = byDays ? edited.day_high : edited.high;
    const bracket = low === null ? "one model: no bracket" : `${signed(low)} to ${signed(high)} among trainings`;
    parts.push(box("edited", byDays ? "difference, by days" : "difference", signed(value), bracket));
    parts.push(box("", "window as a whole", signed(edited.difference),
      edited.low === null ? "" : `${signed(edited.low)} to ${signed(edited.high)}`));
    const noise = low !== null && low <= 0 && high >= 0 ? " The bracket holds 0: it may be noise." : "";
    const apart = byDays && Math.sign(value) !== Math.sign(edited.difference) && edited.difference !== 0
      ? " The two readings disagree in sign: trust neither far." : "";
    $("headline").textContent = `With ${edits().length} edit${edits().length > 1 ? "s" : ""}: ${signed(value)} ${unit}, ` +
      `for ${number(state.answer.n_users)} users.${noise}${apart}`;
  } else {
    $("headline").textContent = `${number(state.answer.n_users)} users, calendar as planned. Edit it to see what changes.`;
  }
  $("numbers").replaceChildren(...parts);
  const key = (kind, text, isBand) => make("span", {}, make("svg", { viewBox: "0 0 30 10", "aria-hidden": "true" },
    isBand ? make("rect", { class: "band", width: 30, height: 10 }) : make("path", { class: kind, d: "M0 5H30" })), text);
  $("legend").replaceChildren(...[key("past", "past"), key("planned-line", "as planned"),
    edited ? key("edited-line", "edited") : null,
    daily && daily.low["as planned"][0] !== null ? key("", "80 % of days", true) : null].filter(Boolean));
}

// Axes for days and values; gives where things are. Narrow screens get fewer ticks and the same letters.
function axes(place, days, low, high, height, label) {
  const width = Math.max(320, Math.min(760, place.clientWidth || 720));
  const left = 46, right = 8, top = 20, bottom = 24;
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  const x = (i) => left + (i + 0.5) * (width - left - right) / days.length;
  const span = high - low || 1;
  const y = (value) => top + (high - value) * (height - top - bottom) / span;
  const step = 10 ** Math.floor(Math.log10(span / 3)) * [1, 2, 5, 10].find((m) => span / (10 ** Math.floor(Math.log10(span / 3)) * m) <= 4);
  for (let v = Math.ceil(low / step) * step; v <= high + step / 1000; v += step) {
    svg.append(make("line", { class: Math.abs(v) < step / 100 ? "zero" : "grid", x1: left, x2: width - right, y1: y(v), y2: y(v) }),
      make("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, number(v)));
  }
  const every = Math.max(7, 7 * Math.ceil(days.length / 7 / Math.floor(width / 75)));
  days.forEach((text, i) => {
    if (i % every === 0 && x(i) < width - 24) svg.append(make("text", { x: x(i), y: height - 6, "text-anchor": "middle" }, shown(day(text))));
  });
  place.replaceChildren(svg);
  return { svg, x, y, width, top, floor: height - bottom };
}

const line = (points) => points.map(([px, py], i) => `${i ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");

function drawForecast(daily, past, target) {
  if (!daily) { $("forecast").replaceChildren(make("p", {}, "This model says nothing of single days.")); return; }
  const before = past.values[target] || [];
  const days = [...past.day, ...daily.day];
  const n = before.length;
  const planned = daily.values["as planned"];
  const edited = daily.values.edited;
  const low = daily.low["as planned"], high = daily.high["as planned"];
  const hasBand = low[0] !== null;
  const sorted = [...(hasBand ? high : [])].sort((a, b) => a - b);
  const ceiling = Math.max(...before, ...planned, ...(edited || []), 1e-9);
  const top = Math.max(ceiling, Math.min(sorted[sorted.length - 1] || 0, 1.6 * ceiling)) * 1.05;
  const { svg, x, y, top: head, floor } = axes($("forecast"), days, 0, top, 290,
    `${target} per day: ${n} past days and ${planned.length} coming days`);
  const at = (i, v) => [x(i), y(Math.min(v, top))];
  if (hasBand) {
    const up = high.map((v, i) => at(n + i, v)), down = low.map((v, i) => at(n + i, v)).reverse();
    svg.append(make("path", { class: "band", d: line([...up, ...down]) + "Z" }));
  }
  svg.append(make("line", { class: "cut", x1: x(n - 0.5), x2: x(n - 0.5), y1: head - 6, y2: floor }),
    make("text", { x: x(n - 0.5) - 4, y: head - 8, "text-anchor": "end" }, "as of " + state.about.as_of));
  svg.append(make("path", { class: "past", d: line(before.map((v, i) => at(i, v))) }));
  svg.append(make("path", { class: "planned-line", d: line(planned.map((v, i) => at(n + i, v))) }));
  if (edited) svg.append(make("path", { class: "edited-line", d: line(edited.map((v, i) => at(n + i, v))) }));
  for (const one of listed()) {
    const i = Math.round((day(one.start) - day(days[0])) / DAY);
    if (i < 0 || i >= days.length) continue;
    const px = x(i), kind = one.isGone ? "mark is-gone" : one.isEdited ? "mark is-edited" : "mark";
    svg.append(make("path", { class: kind, d: `M${px - 5} ${floor - 1}L${px + 5} ${floor - 1}L${px} ${floor - 10}Z` },
      make("title", {}, `${one.event}, ${one.start}`)));
  }
}

function drawDifference(daily) {
  const edited = daily && daily.values.edited;
  $("difference-figure").hidden = !edited;
  if (!edited) return;
  const gap = edited.map((v, i) => v - daily.values["as planned"][i]);
  const most = Math.max(...gap.map(Math.abs), 1e-9) * 1.1;
  const { svg, x, y } = axes($("difference"), daily.day, -most, most, 150,
    `Difference per day, ${signed(gap.reduce((a, b) => a + b, 0))} ${daily.unit} over all days`);
  const width = Math.max(2, (x(1) - x(0)) * 0.7);
  gap.forEach((v, i) => svg.append(make("rect", { class: v >= 0 ? "bar-up" : "bar-down", x: x(i) - width / 2,
    y: Math.min(y(0), y(v)), width, height: Math.abs(y(v) - y(0)) }, make("title", {}, `${daily.day[i]}: ${signed(v)}`))));
}

function table(head, rows, isModel) {
  const line = (cells, name) => make("tr", {}, ...cells.map((text) => make(name, name === "th" ? { scope: "col" } : {}, text)));
  const body = rows.map((cells) => line(cells, "td"));
  if (isModel) rows.forEach((cells, i) => { if (isModel(cells)) body[i].className = "is-model"; });
  return make("table", {}, make("thead", {}, line(head, "th")), make("tbody", {}, ...body));
}

function drawTable(daily) {
  if (!daily) return;
  const edited = daily.values.edited;
  $("table").replaceChildren(table(["day", "as planned", "low", "high", ...(edited ? ["edited", "difference"] : [])],
    daily.day.map((text, i) => {
      const v = daily.values["as planned"][i], low = daily.low["as planned"][i], high = daily.high["as planned"][i];
      return [text, number(v), low === null ? "unknown" : number(low), high === null ? "unknown" : number(high),
        ...(edited ? [number(edited[i]), signed(edited[i] - v)] : [])];
    })));
}

function drawTotals(answer) {
  const known = new Map(state.about.targets.map((one) => [one.name, one.define]));
  $("totals").replaceChildren(table(["target", "what it counts", "calendar", "total", "80 % range", "difference", "by days"],
    answer.rows.map((row) => [row.target, known.get(row.target) || "", row.calendar, `${number(row.total)} ${row.unit}`,
      row.total_low === null ? "unknown" : `${number(row.total_low)} to ${number(row.total_high)}`,
      row.calendar === "as planned" ? "" : signed(row.difference),
      row.calendar === "as planned" ? "" : row.day_difference === null ? "no day head" : signed(row.day_difference)])));
}

// Look-alikes of one user, each with what is forecast for them.
async function drawAlike(user, mine) {
  $("alike").hidden = !user;
  if (!user) return;
  const base = `v1/runs/${encodeURIComponent(state.about.run)}`;
  const { users } = await (await ask(base + "/similar", { user, top: 8 })).json();
  const known = users.length ? (await (await ask(base + "/predict", { users: users.map((one) => one.user) })).json()).users : [];
  if (mine !== state.asked) return;
  const names = state.about.targets.map((one) => one.name);
  $("alike-list").replaceChildren(table(["user", "likeness", ...names], users.map((one, i) => [one.user, number(one.score, 3),
    ...known[i].targets.map((target) => number(target.value))])));
}

// the calendar -------------------------------------------------------------------------------------------------------

const keyOf = (one) => `${one.event}|${one.start}`;

// Every event near the window as it stands after the edits.
function listed() {
  const known = state.about.calendar.map((one) => {
    const made = state.edits.get(keyOf(one)) || [];
    const drop = made.some((edit) => edit.edit === "drop");
    const readded = made.find((edit) => edit.edit === "add");
    const move = made.find((edit) => edit.edit === "move");
    const rescoped = made.find((edit) => edit.edit === "rescope");
    return { ...one, was: one, start: readded?.start || move?.start || one.start, isGone: drop && !readded, isEdited: made.length > 0,
      audience: readded ? readded.audience : rescoped ? rescoped.audience : one.audience };
  });
  return [...known, ...state.added.map((one, i) => ({ ...one, place: i, isEdited: true, isAdded: true }))];
}

function setEvent(one, start, audience) {
  const was = one.was;
  const isMoved = start !== was.start, isOther = (audience || null) !== (was.audience || null);
  const length = day(was.end) - day(was.start);
  const edit = { event: was.event, was: was.start };
  if (!isMoved && !isOther) state.edits.delete(keyOf(was));
  else if (isMoved && isOther) {
    const anew = { edit: "add", event: was.event, type: was.type, start, end: iso(day(start) + length) };
    state.edits.set(keyOf(was), [{ edit: "drop", ...edit }, audience ? { ...anew, audience } : anew]);
  } else if (isMoved) state.edits.set(keyOf(was), [{ edit: "move", ...edit, start }]);
  else state.edits.set(keyOf(was), [{ edit: "rescope", ...edit, audience: audience || "*" }]);
  changed();
}

function changed() {
  drawCalendar();
  refresh();
}

function drawCalendar() {
  const focused = document.activeElement?.dataset?.focus;
  const all = listed().sort((a, b) => (a.start < b.start ? -1 : 1));
  const past = all.filter((one) => one.is_past).slice(-SHOWN_PAST); // enough to see what the coming ones resemble
  const rows = [...past, ...all.filter((one) => !one.is_past)].map((one) => {
    const head = [make("strong", {}, one.event), make("span", { class: "tag" }, one.type +
      (one.audience && one.audience !== "*" ? `, for ${one.audience}` : ""))];
    if (one.is_past) return make("li", { class: "is-past" }, `${one.start} `, ...head);
    const word = one.isAdded ? "added" : one.isGone ? "dropped" : one.isEdited ? "edited" : "";
    if (word) head.push(make("span", { class: "state" }, word));
    return make("li", { class: one.isGone ? "is-gone" : false }, ...head, make("div", { class: "row" }, ...controls(one)));
  });
  if (!rows.length) rows.push(make("li", { class: "is-past" }, "No known event near this window."));
  $("events").replaceChildren(...rows);
  $("undo").disabled = edits().length === 0;
  if (focused) document.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
}

function controls(one) {
  const id = one.isAdded ? `added ${one.place}` : keyOf(one.was);
  const button = (text, label, act) => make("button", { type: "button", "aria-label": `${label}: ${one.event}`,
    "data-focus": `${id} ${label}`, onclick: act }, text);
  if (one.isAdded) return [make("span", { class: "tag" }, `${one.start} to ${one.end}`),
    button("Remove", "remove", () => { state.added.splice(one.place, 1); changed(); })];
  if (one.isGone) return [button("Keep it after all", "keep", () => { state.edits.delete(keyOf(one.was)); changed(); })];
  const audience = one.audience === "*" ? "" : one.audience || "";
  const first = iso(day(state.about.as_of) + DAY);
  const shift = (n) => { const to = iso(day(one.start) + n * DAY); setEvent(one, to < first ? first : to, audience); };
  const date = make("input", { type: "date", value: one.start, min: first, "aria-label": `start of ${one.event}`,
    "data-focus": `${id} date`, onchange: (event) => { if (event.target.value) setEvent(one, event.target.value, audience); } });
  const parts = [date, button("−7 d", "a week earlier", () => shift(-7)), button("+7 d", "a week later", () => shift(7)),
    button("Drop", "drop", () => { state.edits.set(keyOf(one.was), [{ edit: "drop", event: one.was.event, was: one.was.start }]); changed(); })];
  if (state.about.audiences.length) {
    const names = ["", ...state.about.audiences];
    parts.splice(3, 0, make("select", { "aria-label": `who gets ${one.event}`, "data-focus": `${id} who`,
      onchange: (event) => setEvent(one, one.start, event.target.value) },
    ...names.map((name) => make("option", { value: name, selected: name === audience }, name || "everyone"))));
  }
  return parts;
}

// the model ----------------------------------------------------------------------------------------------------------

const LESS = ["log_loss", "brier", "ece", "wape", "mae", "rmse"];

function drawGate() {
  const { figures } = state.about;
  const target = $("target").value;
  const rows = figures.table.filter((row) => row.target === target);
  $("gate-hint").textContent = rows.length
    ? "On the test cut-offs, beside what simple means reach. Lower is better for " + LESS.join(", ") + "."
    : "This run was not evaluated: nobody knows how good it is. Run `habitus evaluate`.";
  const metrics = rows.length ? Object.keys(rows[0].metrics).slice(0, 5) : [];
  const mine = new Set(figures.models.filter((one) => one.role !== "gate").map((one) => one.name));
  $("gate").replaceChildren(...(rows.length ? [table(["", ...metrics.map((name) => name.replaceAll("_", " "))],
    rows.map((row) => [row.model, ...metrics.map((name) => number(row.metrics[name]?.value ?? NaN, 3))]), (cells) => mine.has(cells[0]))] : []));
  const plot = figures.reliability.find((one) => one.target === target && mine.has(one.model));
  $("reliability-figure").hidden = !plot;
  if (plot) drawReliability(plot);
}

function drawReliability(plot) {
  const most = Math.max(...plot.predicted, ...plot.observed, 0.01) * 1.08;
  const size = 240, left = 40, at = (v) => left + v / most * (size - left - 8), up = (v) => size - 30 - v / most * (size - 42);
  const svg = make("svg", { viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": "Chances said and chances seen" },
    make("line", { class: "cut", x1: at(0), y1: up(0), x2: at(most), y2: up(most) }),
    make("line", { class: "zero", x1: at(0), y1: up(0), x2: at(most), y2: up(0) }),
    make("line", { class: "zero", x1: at(0), y1: up(0), x2: at(0), y2: up(most) }),
    make("path", { class: "planned-line", d: line(plot.predicted.map((v, i) => [at(v), up(plot.observed[i])])) }),
    ...plot.predicted.map((v, i) => make("circle", { class: "mark", cx: at(v), cy: up(plot.observed[i]), r: 4 },
      make("title", {}, `said ${number(v)}, seen ${number(plot.observed[i])}, ${number(plot.n[i])} users`))),
    make("text", { x: size / 2 + 14, y: size - 4, "text-anchor": "middle" }, `chance said, 0 to ${number(most)}`),
    make("text", { x: left + 8, y: 16 }, "chance seen"));
  $("reliability").replaceChildren(svg);
  $("reliability-caption").textContent = `Calibration of ${plot.model}: on the dotted line, chances are what they say.`;
}

// runs of events -----------------------------------------------------------------------------------------------------

async function showUser(seed = 0) {
  const user = $("user").value.trim();
  if (!user) return;
  const base = `v1/runs/${encodeURIComponent(state.about.run)}`;
  try {
    const { users } = await (await ask(base + "/next", { users: [user], top: 8 })).json();
    const most = Math.max(...users[0].values.map((one) => one.probability));
    $("next").replaceChildren(make("div", { class: "bars" }, ...users[0].values.flatMap((one) => [make("span", {}, one.value),
      make("svg", { viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": "true" },
        make("rect", { class: "mark", width: Math.max(0.5, 100 * one.probability / most), height: 12 })),
      make("span", {}, number(100 * one.probability, 1) + " %")])));
    if (state.about.can_generate) await drawFortnight(base, user, seed);
    trouble(null);
  } catch (error) { trouble(error); }
  document.documentElement.dataset.drawn = String(++state.asked);
}

async function drawFortnight(base, user, seed) {
  const text = await (await ask(base + "/generate", { users: [user], days: 14, seed })).text();
  const events = text.trim().split("\n").map((one) => JSON.parse(one)).filter((one) => !("done" in one));
  const start = day(state.about.as_of) + DAY;
  const days = [...Array(14).keys()].map((i) => iso(start + i * DAY));
  const perDay = days.map((text) => events.filter((one) => one.time.slice(0, 10) === text).length);
  const { svg, x, y } = axes($("fortnight"), days, 0, Math.max(...perDay, 1) * 1.1, 150, `${events.length} events drawn`);
  const width = (x(1) - x(0)) * 0.7;
  perDay.forEach((v, i) => svg.append(make("rect", { class: "bar-up", x: x(i) - width / 2, y: y(v), width, height: y(0) - y(v) })));
  const words = (one) => Object.entries(one).filter(([key, v]) => !["user", "sample", "event", "time"].includes(key) && v !== null && typeof v === "string");
  $("drawn").replaceChildren(...(events.length ? events.slice(0, 60).map((one) => make("li", {},
    `${one.time.slice(0, 16)} ${words(one).map(([, v]) => v).join(", ")}`)) : [make("li", {}, "Nothing happens in this one.")]));
}

// runs of whole lives ------------------------------------------------------------------------------------------------

function clearLife() {
  $("life-said").textContent = "Choose a user above.";
  $("life").replaceChildren();
  $("like").replaceChildren();
}

async function showLife() {
  const user = $("user").value.trim();
  if (!user) return;
  const base = `v1/runs/${encodeURIComponent(state.about.run)}`;
  const mine = ++state.asked;
  try {
    const told = await (await ask(base + "/similar", { user, top: 10 })).json();
    if (mine !== state.asked) return;
    drawLife(user, told);
    trouble(null);
  } catch (error) { if (mine === state.asked) { clearLife(); trouble(error); } }
  document.documentElement.dataset.drawn = String(mine);
}

function drawLife(user, told) {
  const own = told.interests || [];
  const anchors = [...new Set(own.map((one) => one.anchor))].map((anchor) => own.filter((one) => one.anchor === anchor));
  anchors.sort((a, b) => b[0].share - a[0].share);
  $("life-said").textContent = own.length ? `${user}: ${anchors.length} ${anchors.length > 1 ? "anchors" : "anchor"} with weight.`
    : `${user} has no event that counts: the vector is that of nobody.`;
  const most = Math.max(...own.map((one) => one.weight));
  $("life").replaceChildren(...anchors.map((rows) => make("div", {}, make("h3", {}, `Anchor ${rows[0].anchor}: ${number(100 * rows[0].share, 0)} % of this life`),
    make("div", { class: "bars is-even" }, ...rows.flatMap((one) => [make("span", {}, one.interest),
      make("svg", { viewBox: "0 0 100 12", preserveAspectRatio: "none", role: "img", "aria-label": `weight ${number(one.weight)}` },
        make("rect", { class: "mark", width: Math.max(0.5, 100 * one.weight / most), height: 12 })),
      make("span", {}, `${number(one.n)} event${one.n > 1 ? "s" : ""}`)])))));
  const rows = told.users.map((one) => make("tr", {}, make("td", {}, one.user), make("td", {}, number(one.score, 3)),
    make("td", {}, number(one.n_shared)), make("td", { class: "words" }, one.shared.join(" · ") || "none")));
  const head = make("thead", {}, make("tr", {}, ...["user", "likeness", "shared", "the weightiest of them"].map((text, i) =>
    make("th", { scope: "col", class: i === 3 ? "words" : false }, text))));
  $("like").replaceChildren(told.users.length ? make("table", {}, head, make("tbody", {}, ...rows)) : make("p", {}, "Nobody else is known."));
}

// what a person does -------------------------------------------------------------------------------------------------

$("lock").addEventListener("submit", (event) => { event.preventDefault(); state.key = $("key").value; begin(); });
$("choose").addEventListener("submit", (event) => event.preventDefault());
$("run").addEventListener("change", () => openRun($("run").value).catch(trouble));
$("scope").addEventListener("change", () => {
  $("pick-user").hidden = $("scope").value !== "user";
  if ($("scope").value === "user") $("user").focus();
  refresh();
});
const shows = { days: refresh, events: () => showUser(), lives: showLife };
$("user").addEventListener("change", () => shows[state.about.kind]());
$("target").addEventListener("change", () => { drawGate(); if (state.answer) draw(); });
$("add").addEventListener("submit", (event) => {
  event.preventDefault();
  const one = { edit: "add", event: $("new-name").value.trim() || "New event", type: $("new-type").value,
    start: $("new-start").value, end: $("new-end").value < $("new-start").value ? $("new-start").value : $("new-end").value };
  if ($("new-audience").value) one.audience = $("new-audience").value;
  state.added.push(one);
  changed();
});
$("undo").addEventListener("click", () => { state.edits.clear(); state.added = []; changed(); });
$("draw").addEventListener("click", () => showUser(Math.floor(Math.random() * 1e9)));
let pause = 0;
window.addEventListener("resize", () => { clearTimeout(pause); pause = setTimeout(() => state.answer && draw(), 150); });
begin();
