// The page of `ssem-dask fix`: walk through places, say what is wrong, apply. Every change is saved at once; what is
// not finished yet is kept in this browser.

import { Panel, Tiles } from "./panel.js";
import * as tables from "./tables.js";

const KEY = location.pathname.split("/")[2];
const BASE = `/api/${KEY}`;
const POLL_MS = 3000, POLL_RUNNING_MS = 400;
const VIEW_NAMES = { source: "Source", placed: "Placed", result: "Result", previous: "Previous result" };
const TOOLS = {
  pair: "Mark the same structure in two sections: a point in one panel, then in another. Enter sets a point at the cross.",
  mask: "Draw around what shows no tissue: at least 3 points, then Finish.",
  split: "Draw along the fold or crack, from border to border: at least 2 points, then Finish. Each side is then placed by itself.",
};
const el = (id) => document.getElementById(id);

const app = {
  overview: null, fixes: null, places: [], results: 0, moved: {}, job: { state: "idle" },
  z: 0, distance: 1, view: "placed", camera: null, cross: null, active: 1, tool: null, draft: null, place: -1,
  panels: [], sections: new Map(), maps: new Map(), seen: new Set(), stale: false, busy: 0, loading: Promise.resolve(), tiles: null,

  // Positions of the view `result` for source points or back, asked of the server.
  async map(z, to, points) {
    return (await post("map", { z, to, points })).points;
  },
  mapped(z, points) {
    const name = `${z}/${app.results}/${JSON.stringify(points)}`;
    if (!app.maps.has(name)) {
      if (app.maps.size > 500) app.maps.clear();
      app.maps.set(name, null);
      app.map(z, "view", points).then((found) => { app.maps.set(name, found); redraw(); }).catch(() => app.maps.delete(name));
    }
    return app.maps.get(name);
  },
};
window.fixPage = app;  // for tests and the curious; nothing here is secret from this page

class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

async function request(path, options) {
  let reply;
  try {
    reply = await fetch(`${BASE}/${path}`, options);
  } catch {
    throw new Refused(0, "The server does not answer, so nothing was saved; start 'ssem-dask fix' again and open the address that it prints. What you have drawn is kept in this browser.");
  }
  const answer = await reply.json().catch(() => ({}));
  if (!reply.ok) throw new Refused(reply.status, answer.error ?? `The server answers with ${reply.status}.`);
  return answer;
}

const post = (path, body) => request(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

// ---- state

async function refresh() {
  adopt(await request("overview"));
}

function adopt(state) {
  if (state.shape) app.overview = state;
  Object.assign(app, { fixes: state.fixes, places: state.places, moved: state.moved, job: state.job });
  if (state.results !== app.results) { app.results = state.results; app.maps.clear(); }
  app.sections.clear();
  setStale(false);
  show();
}

async function poll() {
  let wait = POLL_MS;
  try {
    const state = await request("state");
    const ended = app.job.state === "running" && state.job.state !== "running";
    app.job = state.job;
    if (state.results !== app.results || ended) {
      if (state.fixes.version === app.fixes.version) adopt(state);
      else Object.assign(app, { places: state.places, moved: state.moved, results: state.results });
      if (ended && state.job.state === "done") setView("result");
      app.sections.clear();
      loadSections();
    }
    // A change that this page is making just now is no change by somebody else.
    if (!app.busy && state.fixes.version !== app.fixes.version) setStale(true);
    if (app.job.state === "running") wait = POLL_RUNNING_MS;
    showJob();
    if (el("banner").dataset.kind === "lost") hideBanner();
  } catch (error) {
    banner(error.message, "lost");
  }
  setTimeout(poll, wait);
}

function setStale(stale) {
  app.stale = stale;
  if (stale) banner("Somebody else has changed the fixes since this page read them. Reload to see their change; until then nothing of yours is saved.", "stale");
  else hideBanner();
}

function banner(text, kind) {
  el("banner").hidden = false;
  el("banner").dataset.kind = kind;
  el("banner").firstElementChild.textContent = text;
}

function hideBanner() {
  el("banner").hidden = true;
  el("banner").dataset.kind = "";
}

function say(text, alarm = false) {
  el("status").textContent = text;
  el("status").classList.toggle("alarm", alarm);
}

// Changes are made one after the other, in the order of the keys, however fast they come.
let queue = Promise.resolve();
function inTurn(work) {
  app.busy++;
  queue = queue.then(work).catch((error) => say(error.message, true)).finally(() => { app.busy--; });
}

// Make a change of the file, in turn; the result is whether it was saved.
async function save(change) {
  return change.operations.length === 0 || commit("edit", change, `Saved: ${change.label}.`);
}

async function commit(path, body, message) {
  try {
    app.fixes = await post(path, { ...body, version: app.fixes.version });
    app.sections.clear();
    say(message);
    show();
    return true;
  } catch (error) {
    if (error.status === 409) banner(error.message, "stale");
    say(error.message, true);
    return false;
  }
}

// ---- what is shown

function show() {
  showPlaces();
  showFixes();
  showJob();
  loadSections();
  el("undo").disabled = !app.fixes.undo;
  el("redo").disabled = !app.fixes.redo;
  el("undo").title = app.fixes.undo ? `Undo: ${app.fixes.undo} (z)` : "Nothing to undo";
  el("redo").title = app.fixes.redo ? `Redo: ${app.fixes.redo} (y)` : "Nothing to redo";
  el("apply").disabled = Boolean(app.fixes.problem) || app.fixes.applied || app.job.state === "running";
  if (app.fixes.problem) say(app.fixes.problem, true);
  el("run").textContent = `${app.overview.run} · ${app.places.length ? app.overview.verdict : "no place stands out"}`;
}

function showPlaces() {
  el("place-count").textContent = app.places.length ? `${app.place + 1} of ${app.places.length}` : "none";
  el("places").replaceChildren(...app.places.map((place, i) => {
    const item = document.createElement("li"), button = document.createElement("button");
    const title = document.createElement("b"), reason = document.createElement("span");
    button.type = "button";
    title.textContent = `${place.label[0].toUpperCase()}${place.label.slice(1)}${place.kind ? `: ${place.kind}` : ""}`;
    reason.textContent = place.reason;
    button.append(title, reason);
    button.classList.toggle("seen", app.seen.has(`${place.z}/${place.y}/${place.x}`));
    if (i === app.place) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => goToPlace(i));
    item.append(button);
    return item;
  }));
  el("places").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
}

function showFixes() {
  const entries = [...app.fixes.tables].sort((a, b) => tables.firstSection(a) - tables.firstSection(b));
  el("fix-count").textContent = `${entries.length || "none"}${app.fixes.applied ? "" : ", not applied yet"}`;
  el("file").textContent = app.overview.file.split("/").pop();
  el("file").title = app.overview.file;
  el("fixes").replaceChildren(...entries.map((entry) => {
    const item = document.createElement("li"), text = document.createElement("span");
    const go = document.createElement("button"), remove = document.createElement("button");
    text.textContent = tables.describe(entry);
    [go.type, go.textContent, go.title] = ["button", "Show", "Show the section"];
    go.addEventListener("click", () => goToSection(tables.firstSection(entry)));
    [remove.type, remove.textContent, remove.title] = ["button", "✕", "Take this fix back"];
    remove.setAttribute("aria-label", `Remove: ${tables.describe(entry)}`);
    remove.addEventListener("click", () => inTurn(() => save(tables.removal(entry))));
    item.append(text, go, remove);
    return item;
  }));
}

function showJob() {
  const { job } = app, box = el("result");
  el("stop").hidden = job.state !== "running";
  el("apply").disabled = Boolean(app.fixes.problem) || app.fixes.applied || job.state === "running";
  box.hidden = job.state === "idle";
  box.classList.toggle("alarm", job.state === "failed");
  if (job.state === "running") {
    const progress = job.progress ?? {};
    const bar = document.createElement("progress");
    if (progress.tasks) { bar.max = progress.tasks; bar.value = progress.done ?? 0; }
    const stage = progress.stage ? `${progress.stage}: ${progress.done ?? 0} of ${progress.tasks} tasks` : "starting";
    box.replaceChildren(`Solving again, ${job.seconds} s: ${stage}`, bar);
  } else if (job.state === "done") {
    box.replaceChildren(`Applied in ${job.seconds} s. ${movedText()}`);
  } else if (job.state === "failed") {
    box.replaceChildren(`Not applied (${job.seconds} s): ${job.message}`);
  }
}

function movedText() {
  const here = app.moved[app.z];
  const moved = Object.values(app.moved).filter((each) => each.p95 > 0.25).length;
  const match = here && here.match_before !== null && here.match !== null ? `, match with the section before ${here.match_before.toFixed(2)} → ${here.match.toFixed(2)}` : "";
  const out = app.fixes.tables.some((entry) => entry.fix.action === "exclude" && tables.covers(entry, app.z));
  const text = out ? `Section ${app.z} is left out. ` : here && here.median !== null ? `Section ${app.z} moved by ${here.median.toFixed(1)} px (median)${match}. ` : "";
  return `${text}${moved} ${moved === 1 ? "section" : "sections"} of ${Object.keys(app.moved).length} near the fixes moved.`;
}

function loadSections() {
  app.loading = fetchSections();
}

async function fetchSections() {
  const count = app.overview.shape[0];
  const wanted = [app.z - app.distance, app.z, app.z + app.distance];
  wanted.forEach((z, i) => {
    const panel = app.panels[i];
    panel.z = z >= 0 && z < count ? z : null;
    panel.info = panel.z === null ? null : app.sections.get(z) ?? (panel.info?.z === z ? panel.info : null);
  });
  redraw();
  try {
    await Promise.all(wanted.filter((z) => z >= 0 && z < count && !app.sections.has(z)).map(async (z) => {
      app.sections.set(z, await request(`section/${z}`));
    }));
  } catch (error) {
    say(error.message, true);
  }
  app.panels.forEach((panel) => { panel.info = panel.z === null ? null : app.sections.get(panel.z) ?? null; });
  captions();
  redraw();
}

function captions() {
  app.panels.forEach((panel) => {
    const caption = panel.canvas.nextElementSibling, info = panel.info;
    if (!info) { caption.textContent = panel.z === null ? "no such section" : ""; return; }
    const match = info.match === null ? "" : ` · match with ${info.z - 1}: ${info.match.toFixed(2)}`;
    const view = panel.view === app.view ? "" : ` · ${VIEW_NAMES[panel.view].toLowerCase()}`;
    caption.textContent = `${info.label}${match}${view}`;
  });
  const middle = app.panels[1].info;
  const exists = middle ? middle.views : [];
  el("views").replaceChildren(...Object.entries(VIEW_NAMES).map(([view, name], i) => {
    const button = document.createElement("button");
    [button.type, button.textContent, button.disabled] = ["button", name, !exists.includes(view)];
    button.title = `${i + 1}`;
    button.setAttribute("role", "radio");
    button.setAttribute("aria-checked", String(view === app.view));
    button.addEventListener("click", () => setView(view));
    return button;
  }));
  el("z").value = app.z;
  el("through").placeholder = app.z;
  el("z").max = el("through").max = app.overview.shape[0] - 1;
  const place = app.places.find((each) => each.z === app.z);
  el("what").textContent = place ? place.kind || place.reason : "";
  const proposed = tables.proposal(app.fixes.tables, place);
  el("propose").hidden = !proposed;
  const key = document.createElement("kbd");
  key.textContent = "p";
  if (proposed) el("propose").replaceChildren(key, ` It ${place.proposal.reason}`);
  document.body.dataset.ready = "true";
}

let frame = 0;
function redraw() {
  if (!frame) frame = requestAnimationFrame(() => {
    frame = 0;
    if (!app.camera) return;
    app.tiles.startFrame();
    app.panels.forEach((panel, i) => panel.draw(i === app.active));
    app.tiles.pump();
    document.body.dataset.settled = String(app.tiles.settled);
  });
}

// ---- moving about

function clampCamera() {
  const [, height, width] = app.overview.shape, { camera } = app;
  // No coarser than the last level allows, so that a frame never needs hundreds of tiles.
  const coarsest = 4 * 2 ** (app.overview.mips - 1);
  camera.scale = Math.min(Math.max(camera.scale, 1 / 16), coarsest);
  camera.y = Math.min(Math.max(camera.y, 0), height);
  camera.x = Math.min(Math.max(camera.x, 0), width);
}

function fit(y, x, side) {
  const { width, height } = app.panels[1].size;
  app.camera = { y, x, scale: (1.06 * side) / Math.max(40, Math.min(width, height)) };
  clampCamera();
  app.cross = [y, x];
  redraw();
}

function fitSection() {
  const [, height, width] = app.overview.shape;
  fit(height / 2, width / 2, Math.max(height, width));
}

function goToSection(z) {
  app.z = Math.min(Math.max(0, z), app.overview.shape[0] - 1);
  el("through").value = "";
  hint();
  captions();
  showJob();
  loadSections();
}

function goToPlace(i) {
  if (!app.places.length) return;
  app.place = (i + app.places.length) % app.places.length;
  const place = app.places[app.place];
  app.seen.add(`${place.z}/${place.y}/${place.x}`);
  fit(place.y, place.x, place.side);
  goToSection(place.z);
  showPlaces();
}

function setView(view) {
  app.view = view;
  captions();
  redraw();
}

function moveCross(dy, dx, fine) {
  const { width, height } = app.panels[app.active].size, { camera } = app;
  const step = fine ? 1 : Math.min(width, height) / 25;
  app.cross = [app.cross[0] + dy * step * camera.scale, app.cross[1] + dx * step * camera.scale];
  const [x, y] = app.panels[app.active].toScreen(app.cross);
  // The picture follows a cross that leaves it.
  if (x < 0 || x > width) camera.x += dx * width * camera.scale / 4;
  if (y < 0 || y > height) camera.y += dy * height * camera.scale / 4;
  clampCamera();
  redraw();
}

function zoom(factor, at = app.cross) {
  const { camera } = app, before = camera.scale;
  camera.scale *= factor;
  clampCamera();
  const part = 1 - camera.scale / before;
  camera.y += (at[0] - camera.y) * part;
  camera.x += (at[1] - camera.x) * part;
  clampCamera();
  redraw();
}

function setActive(i) {
  app.active = i;
  app.panels[i].canvas.focus({ preventScroll: true });
  redraw();
}

// ---- drawing

function draftName() {
  return `ssem-dask-fix ${app.overview.file}`;
}

function keepDraft() {
  if (app.draft && app.draft.points.length) localStorage.setItem(draftName(), JSON.stringify({ ...app.draft, section: app.z }));
  else localStorage.removeItem(draftName());
}

function restoreDraft() {
  try {
    const draft = JSON.parse(localStorage.getItem(draftName()) ?? "null");
    if (!draft || !(draft.tool in TOOLS)) return;
    goToSection(draft.section);
    setTool(draft.tool);
    app.draft = { tool: draft.tool, z: draft.z, points: draft.points };
    hint();
    redraw();
    say("What you were drawing is here again; finish or cancel it.");
  } catch {
    localStorage.removeItem(draftName());
  }
}

function setTool(tool) {
  app.tool = app.tool === tool ? null : tool;
  app.draft = null;
  keepDraft();
  hint();
  redraw();
}

const choose = (tool) => inTurn(async () => setTool(tool));

function hint() {
  document.querySelectorAll("[data-tool]").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.tool === app.tool)));
  const points = app.draft?.points.length ?? 0;
  let text = app.tool ? TOOLS[app.tool] : "";
  if (app.tool === "pair" && points) text = `A point in section ${app.draft.z} is set; now the same structure in another panel.`;
  else if (points) text = `${points} ${points === 1 ? "point" : "points"} in section ${app.draft.z}. ${TOOLS[app.tool]}`;
  el("hint").textContent = text;
  el("finish").disabled = !(app.draft && points >= least(app.tool));
  el("cancel").disabled = !app.tool;
}

const least = (tool) => ({ mask: 3, split: 2 })[tool] ?? Infinity;

function setPoint() {
  // What the key meant when it was pressed: the person may be elsewhere when its turn comes.
  const panel = app.panels[app.active], { z } = panel, cross = [...app.cross];
  if (z === null) return;
  const seen = panel.info && { info: panel.info, view: panel.view };
  inTurn(async () => {
    if (!app.tool) return;
    await app.loading;
    const { info, view } = seen ?? panel;
    if (!info || info.z !== z) return;
    if (view === "previous") { say("Draw in Source, Placed or Result; the previous result is only shown.", true); return; }
    const point = await panel.toSource(cross, info, view);
    if (!point) { say("It is not known where this point is in the source; draw in Source or Placed.", true); return; }
    await addPoint(app.tool, z, point.map((value) => Math.round(value * 100) / 100));
    keepDraft();
    hint();
    redraw();
  });
}

async function addPoint(tool, z, point) {
  const { draft } = app;
  if (tool === "pair" && draft && draft.z !== z) {
    const first = { z: draft.z, point: draft.points[0] };
    if (await save(tables.addPair(app.fixes.tables, first, { z, point }))) app.draft = null;
  } else if (tool === "pair" || !draft) {
    app.draft = { tool, z, points: [point] };
  } else if (draft.z !== z) {
    say(`Finish what you draw in section ${draft.z} first, or cancel it.`, true);
  } else {
    draft.points.push(point);
  }
}

function finish() {
  const z = app.z, wanted = target();
  inTurn(async () => {
    const { draft } = app;
    if (!draft || draft.points.length < least(app.tool)) return;
    const about = draft.z === z ? wanted : { z: draft.z };
    if (!(await save(tables.addLine(app.fixes.tables, about, draft.tool, draft.points)))) return;
    app.draft = null;
    keepDraft();
    hint();
    redraw();
  });
}

function removePoint() {
  if (!app.draft) return;
  app.draft.points.pop();
  if (!app.draft.points.length) app.draft = null;
  keepDraft();
  hint();
  redraw();
}

function cancel() {
  if (app.draft) { app.draft = null; keepDraft(); hint(); redraw(); } else if (app.tool) setTool(app.tool);
}

// ---- what a person says of the section

const through = () => (el("through").value === "" ? app.z : Number(el("through").value));
const target = () => tables.target(app.z, through());

const ACTIONS = {
  exclude: ({ wanted, fill }) => tables.toggleExclude(app.fixes.tables, wanted, fill),
  turn180: ({ wanted }) => tables.turn(app.fixes.tables, wanted, { by: 180 }),
  left90: ({ wanted }) => tables.turn(app.fixes.tables, wanted, { by: 90 }),
  right90: ({ wanted }) => tables.turn(app.fixes.tables, wanted, { by: -90 }),
  mirror: ({ wanted }) => tables.turn(app.fixes.tables, wanted, { mirror: true }),
  invert: ({ wanted }) => tables.toggleInvert(app.fixes.tables, wanted),
  swap: ({ z, other }) => tables.toggleSwap(app.fixes.tables, z, other),
  keep: ({ z }) => tables.setJump(app.fixes.tables, z, "keep"),
  "undo-jump": ({ z }) => tables.setJump(app.fixes.tables, z, "undo"),
};

function act(name) {
  if (app.fixes.problem) { say(app.fixes.problem, true); return; }
  if (name === "angle") { el("angle-dialog").showModal(); el("angle").select(); return; }
  if (app.z === 0 && (name === "keep" || name === "undo-jump")) { say("There is no section before the first one, and no jump.", true); return; }
  const other = through() > app.z ? through() : app.z + 1;
  if (name === "swap" && other >= app.overview.shape[0]) { say("There is no section after the last one; go to the one before it.", true); return; }
  const what = { z: app.z, wanted: target(), other, fill: el("fill").value };
  inTurn(async () => {
    if (await save(ACTIONS[name](what)) && app.view !== "placed" && app.view !== "source") setView("placed");
  });
}

function acceptProposal() {
  const place = app.places.find((each) => each.z === app.z);
  inTurn(async () => {
    const proposed = tables.proposal(app.fixes.tables, place);
    if (!proposed) say("There is no proposal for this section.");
    else if (await save(proposed) && app.view !== "source") setView("placed");
  });
}

function apply() {
  inTurn(startApply);
}

async function startApply() {
  if (app.draft?.points.length) { say(`Finish what you draw in section ${app.draft.z} first, or cancel it.`, true); return; }
  if (app.job.state === "running") return;
  if (app.fixes.applied) { say("Everything that the file says is applied."); return; }
  try {
    app.job = (await post("apply", { version: app.fixes.version })).job;
    say("");
    showJob();
    setTimeout(quickPoll, POLL_RUNNING_MS);
  } catch (error) {
    if (error.status === 409) banner(error.message, "stale");
    say(error.message, true);
  }
}

// While a driver runs, the state is asked for more often than the slow poll does.
async function quickPoll() {
  if (app.job.state !== "running") return;
  try { app.job = (await request("state")).job; showJob(); } catch { return; }
  if (app.job.state === "running") setTimeout(quickPoll, POLL_RUNNING_MS);
  else { await refresh(); if (app.job.state === "done") setView("result"); }
}

// ---- keys and mouse

const KEYS = {
  n: () => goToPlace(app.place + 1), N: () => goToPlace(app.place - 1),
  "]": () => goToSection(app.z + 1), "[": () => goToSection(app.z - 1),
  PageDown: () => goToSection(app.z + 1), PageUp: () => goToSection(app.z - 1),
  ".": () => { app.distance = Math.min(5, app.distance + 1); loadSections(); },
  ",": () => { app.distance = Math.max(1, app.distance - 1); loadSections(); },
  1: () => setView("source"), 2: () => setView("placed"), 3: () => setView("result"), 4: () => setView("previous"),
  b: () => setView(app.view === "result" ? "previous" : "result"),
  ArrowUp: (e) => moveCross(-1, 0, e.shiftKey), ArrowDown: (e) => moveCross(1, 0, e.shiftKey),
  ArrowLeft: (e) => moveCross(0, -1, e.shiftKey), ArrowRight: (e) => moveCross(0, 1, e.shiftKey),
  "+": () => zoom(1 / 1.25), "=": () => zoom(1 / 1.25), "-": () => zoom(1.25), 0: fitSection,
  s: () => setActive((app.active + 1) % 3),
  Enter: setPoint, Backspace: () => inTurn(async () => removePoint()), f: finish, Escape: () => inTurn(async () => cancel()),
  x: () => act("exclude"), t: () => act("turn180"), r: () => act("left90"), R: () => act("right90"), a: () => act("angle"),
  m: () => act("mirror"), i: () => act("invert"), w: () => act("swap"), k: () => act("keep"), j: () => act("undo-jump"),
  o: () => choose("pair"), g: () => choose("mask"), l: () => choose("split"),
  e: () => el("through").select(),
  z: undo, y: redo, p: acceptProposal, A: apply, "?": () => el("keys").showModal(),
};

function undo() {
  inTurn(async () => app.fixes.undo && commit("undo", {}, `Undone: ${app.fixes.undo}.`));
}

function redo() {
  inTurn(async () => app.fixes.redo && commit("redo", {}, `Done again: ${app.fixes.redo}.`));
}

function onKey(event) {
  if (document.querySelector("dialog[open]")) return;
  const at = event.target;
  if (at.matches?.("input, select, textarea")) {
    if (event.key === "Escape" || event.key === "Enter") { at.blur(); setActive(app.active); event.preventDefault(); }
    return;
  }
  if (at.matches?.("button") && (event.key === "Enter" || event.key === " ")) return;
  if (event.ctrlKey || event.metaKey) {
    const key = event.key.toLowerCase();
    if (key === "z" && !event.shiftKey) undo();
    else if (key === "y" || (key === "z" && event.shiftKey)) redo();
    else return;
    event.preventDefault();
    return;
  }
  if (event.altKey || !Object.hasOwn(KEYS, event.key)) return;
  event.preventDefault();
  KEYS[event.key](event);
}

function watchPanel(panel, i) {
  const { canvas } = panel;
  let from = null, moved = false;
  canvas.addEventListener("focus", () => { app.active = i; redraw(); });
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    canvas.focus({ preventScroll: true });
    [from, moved] = [[event.offsetX, event.offsetY], false];
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!from) return;
    const dx = event.offsetX - from[0], dy = event.offsetY - from[1];
    if (!moved && Math.hypot(dx, dy) < 4) return;
    moved = true;
    app.camera.x -= dx * app.camera.scale;
    app.camera.y -= dy * app.camera.scale;
    clampCamera();
    from = [event.offsetX, event.offsetY];
    redraw();
  });
  canvas.addEventListener("pointerup", (event) => {
    if (from && !moved) {
      app.active = i;
      app.cross = panel.fromScreen(event.offsetX, event.offsetY);
      setPoint();
      redraw();
    }
    from = null;
  });
  canvas.addEventListener("pointercancel", () => { from = null; });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(event.deltaY > 0 ? 1.15 : 1 / 1.15, panel.fromScreen(event.offsetX, event.offsetY));
  }, { passive: false });
}

async function start() {
  app.tiles = new Tiles(BASE, 256, redraw);
  app.panels = [...document.querySelectorAll("#panels canvas")].map((canvas) => new Panel(canvas, app));
  app.panels.forEach(watchPanel);
  document.addEventListener("keydown", onKey);
  new ResizeObserver(redraw).observe(el("panels"));
  document.querySelectorAll("[data-do]").forEach((button) => button.addEventListener("click", () => act(button.dataset.do)));
  document.querySelectorAll("[data-tool]").forEach((button) => button.addEventListener("click", () => choose(button.dataset.tool)));
  const clicks = {
    undo, redo, apply, propose: acceptProposal, finish, cancel: KEYS.Escape, help: () => el("keys").showModal(), stop: () => post("stop", { version: "" }).catch((error) => say(error.message, true)),
    "next-place": KEYS.n, "before-place": KEYS.N, reload: () => refresh().then(() => say("Reloaded.")).catch((error) => say(error.message, true)),
  };
  for (const [id, work] of Object.entries(clicks)) el(id).addEventListener("click", () => work());
  el("z").addEventListener("change", () => goToSection(Number(el("z").value)));
  el("angle-dialog").addEventListener("close", () => {
    const by = Number(el("angle").value);
    if (el("angle-dialog").returnValue === "ok" && Number.isFinite(by) && by !== 0) {
      const wanted = target();
      inTurn(() => save(tables.turn(app.fixes.tables, wanted, { by })));
    }
    setActive(app.active);
  });
  try {
    await refresh();
  } catch (error) {
    say(error.message, true);
    return;
  }
  if (app.panels[1]) fitSection();
  if (app.places.length) goToPlace(0);
  else goToSection(0);
  setActive(1);
  restoreDraft();
  setTimeout(poll, POLL_MS);
}

start();
