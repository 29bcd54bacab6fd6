/* Draws the charts of a report with uPlot. Every chart shares the axis of sections: zooming one zooms all. */
"use strict";
(() => {
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

  function options(host, { unit, height, series, low, range, hooks, legend, axisSize, yValues, grid, down }) {
    const both = axes(unit, axisSize, grid !== false);
    if (yValues) Object.assign(both[1], yValues);
    return {
      width: host.clientWidth, height,
      padding: [8, 8, 0, 0],
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

  function add(host, opts, values) {
    opts.cursor.drag.setScale = false;
    const plot = new uPlot(opts, values, host);
    plot.zoomed = true;
    plot.setScale("x", { min: whole()[0], max: whole()[1] });
    plots.push(plot);
    new ResizeObserver(() => {
      if (host.clientWidth && host.clientWidth !== plot.width) plot.setSize({ width: host.clientWidth, height: opts.height });
    }).observe(host);
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

  /* Mark the sections that need a look: a band behind the curves, at least 2 px wide, and a notch above. */
  function drawSpoilt(u) {
    const { ctx, bbox } = u, least = 2 * devicePixelRatio, notch = 4 * devicePixelRatio;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top - notch, bbox.width, bbox.height + notch);
    ctx.clip();
    ctx.fillStyle = colour("alarm");
    for (const mark of data.marks) {
      const from = u.valToPos((mark.column - 0.5) * data.bin, "x", true), to = u.valToPos((mark.column + 0.5) * data.bin, "x", true);
      const wide = Math.max(least, Math.min(to - from, 12 * devicePixelRatio)), left = (from + to - wide) / 2;
      ctx.globalAlpha = 0.18;
      ctx.fillRect(left, bbox.top, wide, bbox.height);
      ctx.globalAlpha = 1;
      ctx.fillRect(left, bbox.top - notch, wide, notch);
    }
    ctx.restore();
  }
  function drawNotches(u) {
    const { ctx, bbox } = u, high = 5 * devicePixelRatio;
    ctx.save();
    ctx.fillStyle = colour("alarm");
    for (const mark of data.marks) {
      const from = u.valToPos((mark.column - 0.5) * data.bin, "x", true), to = u.valToPos((mark.column + 0.5) * data.bin, "x", true);
      if (to > bbox.left && from < bbox.left + bbox.width) ctx.fillRect(from, bbox.top - high, Math.max(2 * devicePixelRatio, to - from), high);
    }
    ctx.restore();
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
    add(host, options(host, { unit: chart.unit, height: 190, series, low: chart.low, legend: true, hooks: { drawClear: [drawSpoilt] } }),
      [z, ...chart.lines.map((line) => line.values)]);
  }

  /* Draw an image whose columns are the sections at the position given by the axes. */
  function drawImage(u, image, columns, smooth) {
    const { ctx, bbox } = u;
    const left = u.valToPos(whole()[0], "x", true), right = u.valToPos(whole()[1], "x", true);
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.imageSmoothingEnabled = smooth || (right - left) / columns < 1;
    ctx.imageSmoothingQuality = "high";
    ctx.drawImage(image, left, bbox.top, right - left, bbox.height);
    ctx.restore();
  }

  function drawReslice(item) {
    const host = panel(document.getElementById("reslice-charts"), item.id, item.title, "");
    const image = new Image();
    const plot = add(host, options(host, {
      unit: `${item.id[0]}, µm`, height: z.length < 200 ? 400 : 280, series: [{ show: false }], legend: false,
      range: () => [0, item.extent], down: true, grid: false,
      hooks: { drawClear: [(u) => { if (wide) drawImage(u, wide, z.length, true); }], draw: [drawNotches] },
    }), [z, z.map(() => null)]);
    let wide = null;
    image.onload = () => {
      // Widen each section to whole pixels first, so that smoothing along the cut does not mix neighbours.
      const times = Math.max(1, Math.ceil(1200 / image.naturalWidth));
      wide = document.createElement("canvas");
      wide.width = image.naturalWidth * times;
      wide.height = image.naturalHeight;
      const pen = wide.getContext("2d");
      pen.imageSmoothingEnabled = false;
      pen.drawImage(image, 0, 0, wide.width, wide.height);
      plot.redraw();
    };
    image.src = item.image;
  }

  /* Codes above the levels, in the order of binning.py; also the names of their colours. */
  const CODES = ["unknown", "not-done", "no-tissue", "low-quality", "failed"];
  const describeCode = (code) => (code === "low-quality" ? "not registered" : code.replace("-", " "));

  function drawMap() {
    const select = document.getElementById("which"), holder = document.getElementById("map");
    const value = document.getElementById("mapvalue"), legend = document.getElementById("legend");
    if (!data.maps.length) { document.getElementById("windows").hidden = true; return; }
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
        drawClear: [(u) => { if (levels) { drawImage(u, canvas, z.length); drawMarks(u); } }],
        draw: [drawNotches],
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
    function drawMarks(u) {
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

  for (const item of data.reslices) drawReslice(item);
  if (!data.reslices.length) document.getElementById("reslices").hidden = true;
  for (const chart of data.curves) drawCurves(chart);
  if (!data.curves.length) document.getElementById("curves").hidden = true;
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
    restyle();
  });
  addEventListener("afterprint", () => {
    document.documentElement.classList.remove("print");
    for (const item of document.querySelectorAll("details")) item.open = item.dataset.was === "true";
    restyle();
  });
  document.body.dataset.ready = "true";
})();
