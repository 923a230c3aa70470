// Plots are drawn from the tables under them, so that both always say the same.
//
//   <figure class="plot" data-x="time">                    x is a time; without data-x a number
//     <figcaption>What it shows</figcaption>
//     <div class="canvas"></div>
//     <details id="..."><summary>Values</summary><div class="wide"><table>
//       <thead><tr><th data-as="x">Labels</th><th data-as="y">Right</th><th data-as="low">..</th><th data-as="high">..
//       <tbody><tr><td data-value="50">50</td><td data-value="0.91">91 %</td>...
//
// Each y is a line of its own; low and high are a band around the last y before them; other columns are not drawn.
// data-unit="share" makes y a share, from 0 to 100 %; data-diagonal draws "as sure as right"; data-points draws no lines.
"use strict";

const dark = matchMedia("(prefers-color-scheme: dark)");
const drawn = new Map();

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function read(table) {
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...table.tBodies[0].rows];
  return heads
    .map((head, place) => ({
      as: head.dataset.as,
      name: head.textContent.trim(),
      values: rows.map((row) => (row.cells[place].dataset.value === "" ? null : Number(row.cells[place].dataset.value))),
    }))
    .filter((column) => column.as);
}

function draw(figure) {
  const columns = read(figure.querySelector("table"));
  const canvas = figure.querySelector(".canvas");
  const share = figure.dataset.unit === "share";
  const points = "points" in figure.dataset;
  const strokes = ["--line", "--line-2", "--line-3"];
  const label = (value) => (value == null ? "–" : share ? `${(100 * value).toFixed(0)} %` : String(Math.round(value * 100) / 100));
  const series = [{ label: columns[0].name, value: columns[0].as === "x" && figure.dataset.x !== "time" ? (_, value) => (value == null ? "–" : points ? label(value) : value) : undefined }];
  const bands = [];
  let lines = 0;
  columns.slice(1).forEach((column, place) => {
    const band = column.as !== "y";
    const stroke = strokes[Math.max(lines - (band ? 1 : 0), 0) % strokes.length];
    if (column.as === "high") bands.push({ series: [place + 1, place], fill: () => colour(`${stroke}-band`) });
    series.push({
      label: column.name,
      stroke: () => (band ? "transparent" : colour(stroke)),
      width: 2,
      points: { show: !band && (points || column.values.length < 2), size: 8 },
      paths: points && !band ? () => null : undefined,
      value: (_, value) => label(value),
    });
    if (!band) lines += 1;
  });
  const data = columns.map((column) => column.values);
  const scales = { x: { time: figure.dataset.x === "time" } };
  if (share) scales.y = { range: [0, 1] };
  if ("diagonal" in figure.dataset) scales.x.range = [0, 1];
  const axis = (percent) => ({
    stroke: () => colour("--pico-muted-color"),
    grid: { stroke: () => colour("--pico-muted-border-color"), width: 1 },
    ticks: { stroke: () => colour("--pico-muted-border-color"), width: 1 },
    ...(percent ? { values: (_, ticks) => ticks.map((tick) => `${Math.round(100 * tick)} %`), size: 55 } : {}),
  });
  const diagonal = (plot) => {
    const line = plot.ctx;
    line.save();
    line.strokeStyle = colour("--pico-muted-color");
    line.setLineDash([4, 4]);
    line.beginPath();
    line.moveTo(plot.valToPos(0, "x", true), plot.valToPos(0, "y", true));
    line.lineTo(plot.valToPos(1, "x", true), plot.valToPos(1, "y", true));
    line.stroke();
    line.restore();
  };
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${figure.querySelector("figcaption").textContent.trim()} The values are in the table below.`);
  const plot = new uPlot(
    {
      width: canvas.clientWidth,
      height: 240,
      series,
      bands,
      scales,
      axes: [axis("diagonal" in figure.dataset), axis(share)],
      cursor: { drag: { x: false, y: false } },
      hooks: "diagonal" in figure.dataset ? { draw: [diagonal] } : {},
    },
    data,
    canvas,
  );
  drawn.set(canvas, plot);
  resized.observe(canvas);
}

const resized = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    if (!target.isConnected) {
      resized.unobserve(target);
      drawn.get(target)?.destroy();
      drawn.delete(target);
    } else if (contentRect.width) {
      drawn.get(target)?.setSize({ width: contentRect.width, height: 240 });
    }
  }
});

dark.addEventListener("change", () => drawn.forEach((plot) => plot.redraw(false)));
document.addEventListener("htmx:load", (event) => event.target.querySelectorAll("figure.plot").forEach(draw));
