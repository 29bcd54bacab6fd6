/* Charts of a report, drawn with uPlot. Every chart shares the axis of sections: zooming one zooms all. */
const data = JSON.parse(document.getElementById("data").textContent);
const z = data.z, last = z.length ? z[z.length - 1] + data.bin : 1;
const plots = [];
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const styles = {
  main: { stroke: "main", width: 2 },
  second: { stroke: "second", width: 2, dash: [7, 3] },
  third: { stroke: "third", width: 2, dash: [2, 3] },
  before: { stroke: "before", width: 1.3 },
  before2: { stroke: "before2", width: 1.3, dash: [5, 3] },
};
const whole = () => [-0.5 * data.bin, last - 0.5 * data.bin];
const short = (v) => (v == null ? "–" : Math.abs(v) >= 1000 ? v.toFixed(0) : String(+v.toPrecision(3)));
const tick = (u, values) => values.map((v) => (Number.isInteger(v) ? v.toLocaleString("en") : ""));

function zoomAll(low, high) {
  const [from, to] = whole();
  if (high - low < 2) return;
  for (const plot of plots) plot.setScale("x", { min: Math.max(from, low), max: Math.min(to, high) });
}

function axes(unit, size, grid) {
  const line = { stroke: () => colour("rule"), width: 1, show: grid };
  const font = '12px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
  const common = { stroke: () => colour("faint"), grid: line, ticks: { ...line, show: true, size: 4 }, font, labelFont: font, labelSize: 16, gap: 3 };
  return [
    { ...common, label: "section", values: tick, space: 60, size: 24 },
    { ...common, label: unit, size: size || 56, space: 26 },
  ];
}

const labels = data.marks.length > 0 && data.marks.length <= 60;

function options(host, { unit, width, height, series, low, range, hooks, legend, axisSize, yValues, grid, down }) {
  const both = axes(unit, axisSize, grid !== false);
  if (yValues) Object.assign(both[1], yValues);
  return {
    width: width || host.clientWidth, height,
    padding: [labels ? 18 : 8, 8, 0, 0],
    scales: {
      x: { time: false, range: (u, min, max) => (u.zoomed ? [min, max] : whole()) },
      y: { dir: down ? -1 : 1, range: range || ((u, min, max) => {
        if (min == null) return [0, 1];
        const base = low == null ? min : Math.min(low, min);
        if (low === 0 && max === 0) return [0, 1];
        const pad = (max - base || Math.abs(max) || 1) * 0.08;
        return [low == null ? base - pad : base, max + pad];
      }) },
    },
    axes: both,
    series: [{ label: data.bin > 1 ? `section (worst of ${data.bin})` : "section", value: (u, v, s, i) => (v == null ? "–" : markAt(i) ? `${v} ⚠ ${markAt(i).text}` : v) }, ...series],
    cursor: { sync: { key: "sections", setSeries: false }, drag: { x: true, y: false }, points: { size: 6 }, y: false },
    legend: { show: legend, markers: { dash: (u, i) => (u.series[i].dash ? "dashed" : "solid") } },
    hooks: { ...hooks, setSelect: [(u) => {
      if (u.select.width < 4) return;
      const low_ = u.posToVal(u.select.left, "x"), high_ = u.posToVal(u.select.left + u.select.width, "x");
      u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
      zoomAll(low_, high_);
    }], ready: [(u) => u.over.addEventListener("dblclick", () => zoomAll(...whole()))] },
  };
}

/* `fit` returns the size of a chart in its present surroundings; by default it is as wide as its host. */
function add(host, opts, values, fit) {
  opts.cursor.drag.setScale = false;
  const plot = new uPlot(opts, values, host);
  plot.zoomed = true;
  plot.setScale("x", { min: whole()[0], max: whole()[1] });
  plots.push(plot);
  plot.fit = () => {
    const size = fit ? fit() : { width: host.clientWidth, height: opts.height };
    if (size.width && (size.width !== plot.width || size.height !== plot.height)) plot.setSize(size);
  };
  new ResizeObserver(plot.fit).observe(fit ? document.querySelector("main") : host);
  return plot;
}

function panel(parent, id, title, text) {
  const box = document.createElement("div");
  box.className = "chart";
  box.id = "chart-" + id;
  const head = document.createElement("h3");
  head.textContent = title;
  box.append(head);
  if (text) {
    const note = document.createElement("p");
    note.textContent = text;
    box.append(note);
  }
  const host = document.createElement("div");
  box.append(host);
  parent.append(box);
  return host;
}

/* Name the sections that need a look, by a notch above the chart and the number of the section; mark borders of slabs. */
function drawMarks(u) {
  const { ctx, bbox } = u, dot = devicePixelRatio, high = 4 * dot, right = bbox.left + bbox.width;
  ctx.save();
  ctx.strokeStyle = colour("second");
  ctx.lineWidth = 1.5 * dot;
  ctx.setLineDash([5 * dot, 3 * dot]);
  for (const border of data.borders) {
    const x = u.valToPos(border - 0.5, "x", true);
    if (x <= bbox.left || x >= right) continue;
    ctx.beginPath();
    ctx.moveTo(x, bbox.top - high);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.fillStyle = colour("alarm");
  ctx.font = `${10 * dot}px system-ui, "DejaVu Sans", sans-serif`;
  ctx.textAlign = "center";
  ctx.textBaseline = "alphabetic";
  let free = bbox.left - 10 * dot; // where the last number ends
  for (const mark of data.marks) {
    const [from, to] = [-0.5, 0.5].map((half) => u.valToPos((mark.column + half) * data.bin, "x", true));
    const x = (from + to) / 2, wide = Math.max(2 * dot, Math.min(to - from, 12 * dot));
    if (x <= bbox.left || x >= right) continue;
    ctx.fillRect(x - wide / 2, bbox.top - high, wide, high);
    const text = z[mark.column].toLocaleString("en"), half = ctx.measureText(text).width / 2;
    if (!labels || x - half < free) continue;
    ctx.fillText(text, x, bbox.top - high - 3 * dot);
    free = x + half + 3 * dot;
  }
  ctx.restore();
}
/* A band behind the curves for each of these sections, at least 2 px wide. */
function drawBands(u) {
  const { ctx, bbox } = u, dot = devicePixelRatio;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  ctx.fillStyle = colour("alarm");
  ctx.globalAlpha = 0.18;
  for (const mark of data.marks) {
    const [from, to] = [-0.5, 0.5].map((half) => u.valToPos((mark.column + half) * data.bin, "x", true));
    const wide = Math.max(2 * dot, Math.min(to - from, 12 * dot));
    ctx.fillRect((from + to - wide) / 2, bbox.top, wide, bbox.height);
  }
  ctx.restore();
}
function hide(id) {
  document.getElementById(id).hidden = true;
  document.querySelector(`nav a[href="#${id}"]`).hidden = true;
}
const markAt = (column) => data.marks.find((mark) => mark.column === column);

function drawCurves(chart) {
  const host = panel(document.getElementById("charts"), chart.id, chart.title, chart.text);
  const sparse = z.length <= 60, dense = z.length > 300;
  const series = chart.lines.map((line) => {
    const style = styles[line.style];
    return {
      label: line.label, stroke: () => colour(style.stroke), width: dense ? 1 : style.width, dash: dense ? undefined : style.dash,
      value: (u, v) => short(v), points: { show: sparse, size: 4, fill: () => colour(style.stroke) }, spanGaps: false,
    };
  });
  add(host, options(host, { unit: chart.unit, height: 190, series, low: chart.low, legend: true, hooks: { drawClear: [drawBands], draw: [drawMarks] } }),
    [z, ...chart.lines.map((line) => line.values)]);
}
