/* The map of windows, and the page as a whole. Follows report_plots.js and report_pictures.js. */
/* Codes above the levels, in the order of binning.py; also the names of their colours. */
const CODES = ["unknown", "not-done", "no-tissue", "low-quality", "failed"];
const describeCode = (code) => (code === "low-quality" ? "not registered" : code.replace("-", " "));

function drawMap() {
  const select = document.getElementById("which"), holder = document.getElementById("map");
  const value = document.getElementById("mapvalue"), legend = document.getElementById("legend");
  // The map of a single window would say what the curves say.
  if (!data.maps.length || data.maps[0].windows * data.maps[0].rows < 2) { document.body.dataset.map = "none"; return hide("windows"); }
  for (const map of data.maps) select.add(new Option(map.title, map.id));
  const host = document.createElement("div");
  host.id = "chart-windows";
  holder.append(host);
  let map = data.maps[0], levels = null, marks = [];
  const canvas = document.createElement("canvas");
  const rgb = (text) => {
    const probe = document.createElement("canvas").getContext("2d");
    probe.fillStyle = text;
    probe.fillRect(0, 0, 1, 1);
    return probe.getImageData(0, 0, 1, 1).data;
  };
  const height = Math.max(110, Math.min(420, 70 + 6 * map.rows));
  const first = Math.max(1, map.windows * map.rows);
  const plot = add(host, options(host, {
    unit: "window", height, series: [{ show: false }], legend: false,
    range: () => [-0.5, map.windows * map.rows - 0.5], down: true, grid: false,
    yValues: { incrs: [1, 2, 4, 5, 8, 10, 16, 20, 25, 32, 50, 64, 100, 128, 250, 256, 500, 1000], values: (u, v) => v.map((x) => (Number.isInteger(x) && x >= 0 && x < first ? String(x) : "")) },
    hooks: {
      drawClear: [(u) => { if (levels) { drawImage(u, canvas, z.length); drawFailed(u); } }],
      draw: [drawMarks],
      setCursor: [(u) => {
        const column = u.cursor.idx;
        if (column == null || u.cursor.top < 0 || !levels) { value.textContent = ""; return; }
        const row = Math.floor((u.posToVal(u.cursor.top, "y") + 0.5) / map.windows);
        if (row < 0 || row >= map.rows) { value.textContent = ""; return; }
        const level = levels[row * map.columns + column];
        const text = level < data.levels
          ? `${short(map.low + (map.high - map.low) * level / (data.levels - 1))} ${map.unit}` : describeCode(CODES[level - data.levels]);
        const window_ = row * map.windows;
        const where = map.windows > 1 ? `windows ${window_} … ${window_ + map.windows - 1}`
          : `window ${window_} (row ${Math.floor(window_ / map.across)}, column ${window_ % map.across})`;
        const mark = markAt(column);
        value.textContent = `section ${z[column]}, ${where}: ${text}${mark ? ` ⚠ ${mark.text}` : ""}`;
      }],
    },
  }), [z, z.map(() => null)]);

  /* Draw failed windows again, at least 2 px wide and high, so that none is lost if many share a pixel. */
  function drawFailed(u) {
    if (marks.length > 20000) return;
    const { ctx, bbox } = u;
    const [from, to] = whole().map((v) => u.valToPos(v, "x", true));
    const wide = (to - from) / map.columns, high = bbox.height / map.rows, least = 2 * devicePixelRatio;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    for (const i of marks) {
      ctx.fillStyle = colour(CODES[levels[i] - data.levels]);
      const x = Math.floor(from + (i % map.columns) * wide), y = Math.floor(bbox.top + Math.floor(i / map.columns) * high);
      ctx.fillRect(x, y, Math.ceil(Math.max(wide, least)), Math.ceil(Math.max(high, least)));
    }
    ctx.restore();
  }

  function paint() {
    const table = [...data.palette, ...CODES.map(colour)].map(rgb);
    canvas.width = map.columns;
    canvas.height = map.rows;
    const pen = canvas.getContext("2d"), picture = pen.createImageData(map.columns, map.rows);
    levels.forEach((level, i) => picture.data.set(table[level], 4 * i));
    pen.putImageData(picture, 0, 0);
    const used = CODES.filter((_, i) => levels.includes(data.levels + i));
    legend.innerHTML = "";
    const scale = document.createElement("span");
    const bar = document.createElement("i");
    bar.className = "bar";
    bar.style.background = `linear-gradient(to right, ${data.palette.join(",")})`;
    scale.append(`${short(map.low)}`, bar, `${short(map.high)} ${map.unit}`);
    legend.append(scale);
    for (const code of used) {
      const item = document.createElement("span"), box = document.createElement("i");
      box.style.background = colour(code);
      item.append(box, describeCode(code));
      legend.append(item);
    }
    plot.redraw();
  }
  function load() {
    map = data.maps.find((m) => m.id === select.value);
    const image = new Image();
    image.onload = () => {
      const raw = document.createElement("canvas");
      raw.width = map.columns;
      raw.height = map.rows;
      const pen = raw.getContext("2d", { colorSpace: "srgb", willReadFrequently: true });
      pen.drawImage(image, 0, 0);
      const bytes = pen.getImageData(0, 0, map.columns, map.rows).data;
      levels = Array.from({ length: map.columns * map.rows }, (_, i) => bytes[4 * i]);
      const lowQuality = data.levels + CODES.indexOf("low-quality");
      marks = [];
      levels.forEach((level, i) => { if (level >= lowQuality) marks.push(i); });
      paint();
      document.body.dataset.map = map.id;
    };
    image.src = map.image;
  }
  select.addEventListener("change", load);
  load();
  return paint;
}

const cuts = new Set(data.reslices.map((item) => item.id.split("-")[0]));
for (const cut of cuts) drawReslices(cut, data.reslices.filter((item) => item.id.startsWith(`${cut}-`)));
for (const place of document.querySelectorAll(".hotspot")) {
  const [fixed, warped] = ["fixed", "warped"].map((name) => place.querySelector(`.${name} img`));
  if (!fixed || !warped) continue;
  const pictures = [fixed.src, warped.src], caption = place.querySelector(".warped figcaption b");
  makeBlink(place.querySelector(".blink"), (which) => {
    warped.src = pictures[which];
    caption.textContent = ["fixed", "warped"][which];
  });
}
if (!data.reslices.length) hide("reslices");
for (const chart of data.curves) drawCurves(chart);
if (!data.curves.length && !data.constants.length) hide("curves");
const paint = drawMap();
if (data.bin > 1) {
  const note = document.getElementById("binned");
  note.hidden = false;
  note.textContent = `Each point represents ${data.bin} sections and shows the worst of them.`;
}
const restyle = () => { for (const plot of plots) plot.redraw(false); if (paint) paint(); };
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);
addEventListener("beforeprint", () => {
  document.documentElement.classList.add("print");
  for (const item of document.querySelectorAll("details")) { item.dataset.was = item.open; item.open = true; }
  for (const plot of plots) plot.fit();
  restyle();
});
addEventListener("afterprint", () => {
  document.documentElement.classList.remove("print");
  for (const item of document.querySelectorAll("details")) item.open = item.dataset.was === "true";
  for (const plot of plots) plot.fit();
  restyle();
});
document.body.dataset.ready = "true";
