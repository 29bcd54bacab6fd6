/* Pictures of a report: reslices with a scale bar, and buttons that exchange two pictures. Follows report_plots.js. */
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

/* Size of a reslice: as many px per µm along the sections as across them, unless it would be too narrow or too low. */
const AXES = { across: 80, along: 48 + (labels ? 10 : 0) };
const depth = z.length * data.bin * data.thickness;
function resliceSize(item) {
  const room = document.getElementById("reslice-charts").clientWidth;
  const half = Math.min(room, Math.max(300, (room - 12) / 2)) - AXES.across, whole = room - AXES.across;
  const lowest = 140, tallest = 440;
  // Before and after stand side by side, unless that makes them too low.
  const most = half * item.extent / depth < lowest ? whole : half;
  const wide = Math.min(most, tallest * depth / item.extent);
  const high = Math.max(lowest, wide * item.extent / depth);
  return { width: Math.floor(Math.max(100, wide) + AXES.across), height: Math.floor(high + AXES.along) };
}

/* Two arms of one length, one along each axis: right at any zoom, and equal where proportions are true. */
function drawScaleBar(u, item) {
  const { ctx, bbox } = u, dot = devicePixelRatio;
  const [from, to] = [u.scales.x.min, u.scales.x.max];
  const along = bbox.width / ((to - from) * data.thickness), across = bbox.height / item.extent;
  const most = Math.min(0.4 * bbox.width / along, 0.3 * bbox.height / across);
  const power = 10 ** Math.floor(Math.log10(most)), length = [5, 2, 1].find((n) => n * power <= most) * power;
  const left = bbox.left + 8 * dot, bottom = bbox.top + bbox.height - 8 * dot;
  ctx.save();
  ctx.lineJoin = "miter";
  for (const [stroke, width] of [["#000000", 5], ["#ffffff", 2.5]]) {
    ctx.strokeStyle = stroke;
    ctx.lineWidth = width * dot;
    ctx.beginPath();
    ctx.moveTo(left, bottom - length * across);
    ctx.lineTo(left, bottom);
    ctx.lineTo(left + length * along, bottom);
    ctx.stroke();
  }
  ctx.font = `600 ${12 * dot}px system-ui, "DejaVu Sans", sans-serif`;
  ctx.lineWidth = 3 * dot;
  ctx.textAlign = "left";
  ctx.textBaseline = "alphabetic";
  ctx.lineJoin = "round";
  ctx.strokeStyle = "#000000";
  ctx.fillStyle = "#ffffff";
  const text = length >= 1 ? `${short(length)} µm` : `${short(1000 * length)} nm`;
  ctx.strokeText(text, left + 5 * dot, bottom - 6 * dot);
  ctx.fillText(text, left + 5 * dot, bottom - 6 * dot);
  ctx.restore();
}

/* A button that exchanges two pictures while it is pressed; `show(i)` shows the first or the second. */
function makeBlink(button, show) {
  let timer = null, shown = 1;
  button.hidden = false;
  button.addEventListener("click", () => {
    const on = timer == null;
    button.setAttribute("aria-pressed", String(on));
    clearInterval(timer);
    timer = on ? setInterval(() => show(shown = 1 - shown), 700) : null;
    show(shown = on ? 0 : 1);
  });
}

function drawReslices(name, items) {
  const group = document.createElement("div"), head = document.createElement("p"), row = document.createElement("div");
  const note = document.createElement("span"), button = document.createElement("button");
  group.className = "cut";
  note.className = "faint";
  Object.assign(button, { className: "blink", type: "button", textContent: "Blink before and after", hidden: true });
  button.setAttribute("aria-pressed", "false");
  head.append(button, " ", note);
  group.append(head, row);
  document.getElementById("reslice-charts").append(group);
  const pictures = items.map(() => null);
  let shown = 1;
  const drawn = items.map((item, i) => {
    const host = panel(row, item.id, item.title, "");
    const size = resliceSize(item);
    const fit = () => {
      const wanted = resliceSize(item);
      const stretch = ((wanted.width - AXES.across) / depth) / ((wanted.height - AXES.along) / item.extent);
      note.textContent = Math.abs(Math.log(stretch)) < 0.05 ? "True proportions."
        : stretch > 1 ? `Sections are drawn ${short(+stretch.toPrecision(2))} times too thick.`
        : `The cut is drawn ${short(+(1 / stretch).toPrecision(2))} times too long.`;
      return wanted;
    };
    fit();
    const plot = add(host, options(host, {
      unit: `${item.id[0]}, µm`, ...size, series: [{ show: false }], legend: false,
      range: () => [0, item.extent], down: true, grid: false,
      hooks: {
        drawClear: [(u) => { const picture = pictures[i === 1 ? shown : i]; if (picture) drawImage(u, picture, z.length, true); }],
        draw: [(u) => { if (pictures[i]) drawScaleBar(u, item); drawMarks(u); }],
      },
    }), [z, z.map(() => null)], fit);
    const image = new Image();
    image.onload = () => {
      // Widen each section to whole pixels first, so that smoothing along the cut does not mix neighbours.
      const times = Math.max(1, Math.ceil(1200 / image.naturalWidth)), wide = document.createElement("canvas");
      wide.width = image.naturalWidth * times;
      wide.height = image.naturalHeight;
      const pen = wide.getContext("2d");
      pen.imageSmoothingEnabled = false;
      pen.drawImage(image, 0, 0, wide.width, wide.height);
      pictures[i] = wide;
      plot.redraw();
    };
    image.src = item.image;
    return { plot, title: host.parentElement.querySelector("h3") };
  });
  if (items.length !== 2) return;
  makeBlink(button, (which) => {
    shown = which;
    drawn[1].title.textContent = items[which].title;
    drawn[1].plot.redraw();
  });
}
