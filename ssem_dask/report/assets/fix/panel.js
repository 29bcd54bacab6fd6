// One section on a canvas: tiles of a view, and on top of them the cross and what was drawn.
// Positions are (y, x) in mip-0 px of the view; fixes are in source px.

import { covers } from "./tables.js";

const CACHED_TILES = 600;
const AT_ONCE = 6;
const PAUSE_MS = 2000;
const POINT_COLOUR = "#ffb000", MASK_COLOUR = "#dc267f", SPLIT_COLOUR = "#00b8d4", CROSS_COLOUR = "#39d353";

export class Tiles {
  constructor(base, tile, changed) {
    Object.assign(this, { base, tile, changed, known: new Map(), wanted: new Map(), loading: 0, paused: 0 });
  }

  // An image, null if there is none, or undefined while it is fetched.
  get(name) {
    if (this.known.has(name)) {
      const image = this.known.get(name);
      this.known.delete(name);
      this.known.set(name, image);
      return image;
    }
    return undefined;
  }

  want(name) {
    if (!this.known.has(name)) this.wanted.set(name, true);
  }

  // What no panel has asked for since the last frame is not fetched any more.
  startFrame() {
    this.wanted.clear();
  }

  pump() {
    if (performance.now() < this.paused) return;
    for (const name of [...this.wanted.keys()]) {
      if (this.loading >= AT_ONCE) return;
      this.wanted.delete(name);
      this.loading++;
      this.fetch(name).finally(() => { this.loading--; this.changed(); });
    }
  }

  async fetch(name) {
    this.known.set(name, undefined);
    try {
      const reply = await fetch(`${this.base}/tile/${name}`);
      const image = reply.ok ? await createImageBitmap(await reply.blob()) : null;
      this.known.set(name, image);
    } catch {
      this.known.delete(name);  // the server does not answer; asked again later
      this.paused = performance.now() + PAUSE_MS;
      setTimeout(this.changed, PAUSE_MS + 50);
    }
    while (this.known.size > CACHED_TILES) this.known.delete(this.known.keys().next().value);
  }

  get settled() {
    return this.loading === 0 && this.wanted.size === 0;
  }
}

export class Panel {
  constructor(canvas, app) {
    Object.assign(this, { canvas, app, z: null, info: null });
    this.context = canvas.getContext("2d");
  }

  get view() {
    const wanted = this.app.view;
    if (!this.info) return wanted;
    if (this.info.views.includes(wanted)) return wanted;
    return this.info.views.includes("placed") ? "placed" : "source";
  }

  get size() {
    return { width: this.canvas.clientWidth, height: this.canvas.clientHeight };
  }

  toScreen([y, x]) {
    const { camera } = this.app, { width, height } = this.size;
    return [(x - camera.x) / camera.scale + width / 2, (y - camera.y) / camera.scale + height / 2];
  }

  fromScreen(left, top) {
    const { camera } = this.app, { width, height } = this.size;
    return [(top - height / 2) * camera.scale + camera.y, (left - width / 2) * camera.scale + camera.x];
  }

  // The source position of a point of a view of a section; null if there is none.
  async toSource(point, info, view) {
    if (view === "source") return point;
    if (view === "placed") return apply(info.affine, point);
    return (await this.app.map(info.z, "source", [point]))[0];
  }

  // Positions of source points in the view; null while the server is asked, and for unknown ones.
  fromSource(points) {
    if (this.view === "source") return points;
    if (this.view === "placed") {
      const back = inverted(this.info.affine);
      return back && points.map((point) => apply(back, point));
    }
    return this.view === "result" ? this.app.mapped(this.z, points) : null;
  }

  draw(active) {
    const { canvas, context, app } = this, ratio = window.devicePixelRatio || 1;
    const { width, height } = this.size;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!this.info || !app.camera) return;
    this.drawTiles(ratio, width, height);
    this.drawFixes(width, height);
    this.drawDraft();
    this.drawCross(width, height, active);
  }

  drawTiles(ratio, width, height) {
    const { app, context } = this, { overview, camera } = app;
    const best = Math.floor(Math.log2(camera.scale / ratio) + 0.3);
    const mip = Math.min(Math.max(best, 0), overview.mips - 1);
    const side = overview.tile * 2 ** mip;
    const [top, left] = this.fromScreen(0, 0), [bottom, right] = this.fromScreen(width, height);
    const rows = [Math.max(0, Math.floor(top / side)), Math.min(Math.ceil(overview.shape[1] / side), Math.ceil(bottom / side))];
    const columns = [Math.max(0, Math.floor(left / side)), Math.min(Math.ceil(overview.shape[2] / side), Math.ceil(right / side))];
    context.imageSmoothingEnabled = camera.scale > 0.5 / ratio;
    for (let row = rows[0]; row < rows[1]; row++) {
      for (let column = columns[0]; column < columns[1]; column++) this.drawTile(mip, row, column);
    }
  }

  drawTile(mip, row, column) {
    const { app, context } = this, { overview, camera } = app;
    const name = this.tileName(mip, row, column);
    let image = app.tiles.get(name);
    if (image === undefined) app.tiles.want(name);
    // Until the tile is there, the part of a coarser one stands in for it.
    let level = mip, part = 1, up = row, across = column;
    while (!image && image !== null && level + 1 < overview.mips) {
      [level, part, up, across] = [level + 1, part * 2, Math.floor(up / 2), Math.floor(across / 2)];
      image = app.tiles.get(this.tileName(level, up, across));
    }
    if (!image) return;
    const scale = 2 ** mip, x = column * overview.tile * scale, y = row * overview.tile * scale;
    const inner = overview.tile / part;
    const sx = (column % part) * inner, sy = (row % part) * inner;
    const w = Math.min(inner, image.width - sx), h = Math.min(inner, image.height - sy);
    if (w <= 0 || h <= 0) return;
    const [left, top] = this.toScreen([y, x]);
    const [right, bottom] = this.toScreen([y + h * part * scale, x + w * part * scale]);
    context.drawImage(image, sx, sy, w, h, Math.floor(left), Math.floor(top), Math.ceil(right) - Math.floor(left), Math.ceil(bottom) - Math.floor(top));
  }

  tileName(mip, row, column) {
    const stamp = this.view === "placed" ? this.app.fixes.version : `r${this.app.results}`;
    const v = this.view === "placed" ? `${stamp}r${this.app.results}` : stamp;
    return `${this.view}/${mip}/${this.z}/${row}/${column}?v=${v}`;
  }

  drawFixes(width, height) {
    const { context, app } = this;
    for (const entry of app.fixes.tables) {
      if (!covers(entry, this.z)) continue;
      const fix = entry.fix;
      if (fix.action === "exclude") this.drawNote("left out", width, height);
      if (Array.isArray(fix.mask)) for (const line of fix.mask) this.drawLine(this.fromSource(line), MASK_COLOUR, { closed: true });
      if (Array.isArray(fix.split)) for (const line of fix.split) this.drawLine(this.fromSource(line), SPLIT_COLOUR, {});
      if (entry.table === "pair") {
        const from = fix.fixed === this.z ? 0 : 2;
        const points = this.fromSource(fix.points.map((point) => point.slice(from, from + 2)));
        (points ?? []).forEach((point, i) => point && this.drawPoint(point, POINT_COLOUR, String(i + 1)));
      }
    }
    context.globalAlpha = 1;
  }

  drawDraft() {
    const { draft } = this.app;
    if (!draft || draft.z !== this.z || !draft.points.length) return;
    const points = this.fromSource(draft.points);
    if (!points) return;
    if (draft.tool === "pair") {
      this.drawPoint(points[0], POINT_COLOUR, "?");
    } else {
      this.drawLine(points, draft.tool === "mask" ? MASK_COLOUR : SPLIT_COLOUR, { dashed: true, dots: true });
    }
  }

  drawLine(points, colour, { closed = false, dashed = false, dots = false }) {
    const known = (points ?? []).filter(Boolean);
    if (!known.length) return;
    const { context } = this;
    context.beginPath();
    known.forEach((point, i) => context[i ? "lineTo" : "moveTo"](...this.toScreen(point)));
    if (closed) context.closePath();
    context.setLineDash(dashed ? [6, 4] : []);
    context.lineWidth = 4;
    context.strokeStyle = "rgb(0 0 0 / 60%)";
    context.stroke();
    context.lineWidth = 2;
    context.strokeStyle = colour;
    context.stroke();
    context.setLineDash([]);
    if (closed) {
      context.globalAlpha = 0.25;
      context.fillStyle = colour;
      context.fill();
      context.globalAlpha = 1;
    }
    if (dots) known.forEach((point) => this.drawPoint(point, colour, ""));
  }

  drawPoint(point, colour, text) {
    const { context } = this, [x, y] = this.toScreen(point);
    context.beginPath();
    context.arc(x, y, 5, 0, 2 * Math.PI);
    context.lineWidth = 4;
    context.strokeStyle = "rgb(0 0 0 / 60%)";
    context.stroke();
    context.lineWidth = 2;
    context.strokeStyle = colour;
    context.stroke();
    if (text) this.drawText(text, x + 8, y - 6, colour);
  }

  drawText(text, x, y, colour) {
    const { context } = this;
    context.font = "600 12px system-ui, sans-serif";
    context.lineWidth = 3;
    context.strokeStyle = "rgb(0 0 0 / 70%)";
    context.strokeText(text, x, y);
    context.fillStyle = colour;
    context.fillText(text, x, y);
  }

  drawNote(text, width, height) {
    const { context } = this;
    context.fillStyle = "rgb(128 128 128 / 55%)";
    context.fillRect(0, 0, width, height);
    this.drawText(text, 10, 20, "#ffffff");
  }

  drawCross(width, height, active) {
    const { cross } = this.app;
    if (!cross) return;
    const { context } = this, [x, y] = this.toScreen(cross);
    if (x < 0 || y < 0 || x > width || y > height) return;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + 4 * dx, y + 4 * dy);
      context.lineTo(x + 13 * dx, y + 13 * dy);
    }
    context.lineWidth = active ? 5 : 4;
    context.strokeStyle = "rgb(0 0 0 / 65%)";
    context.stroke();
    context.lineWidth = active ? 2.5 : 1.5;
    context.strokeStyle = CROSS_COLOUR;
    context.stroke();
  }
}

export function apply([[a, b, c], [d, e, f]], [y, x]) {
  return [a * y + b * x + c, d * y + e * x + f];
}

export function inverted(affine) {
  if (!affine) return null;
  const [[a, b, c], [d, e, f]] = affine, det = a * e - b * d;
  if (Math.abs(det) < 1e-9) return null;
  const [p, q, r, s] = [e / det, -b / det, -d / det, a / det];
  return [[p, q, -(p * c + q * f)], [r, s, -(r * c + s * f)]];
}
