"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const plots = [...document.querySelectorAll(".plot")];
const drawn = new Set();

// plotly.js lies in the page compressed. Its hash is in the page's policy, so it and nothing else runs.
let library;
function unpack() {
  return (library ??= (async () => {
    const bytes = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  })());
}

// "$1", "$bad", ...: the colours of the style sheet, light or dark.
const style = getComputedStyle(document.documentElement); // as it is at the time
const colour = (name) => style.getPropertyValue("--" + name).trim();
function painted(node) {
  const token = typeof node === "string" && /^\$([a-z1-8]+)(\/?)$/.exec(node); // "$1/" is the colour, thin
  if (typeof node === "string") return token ? colour(token[1]) + (token[2] && "29") : node;
  if (Array.isArray(node)) return node.map(painted);
  if (node && typeof node === "object") return Object.fromEntries(Object.entries(node).map(([k, v]) => [k, painted(v)]));
  return node;
}

function draw(plot) {
  const { data, layout } = painted(figures[plot.dataset.figure]);
  const axis = { gridcolor: colour("line"), zeroline: false, linecolor: colour("line"), ticks: "", automargin: true, fixedrange: true, title: { standoff: 8 } };
  const base = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 44, r: 12, t: 14, b: 34 },
    font: { family: style.getPropertyValue("--sans"), size: 12, color: colour("muted") },
    hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("ink") }, align: "left" },
    hovermode: "closest", showlegend: false, bargap: 0.45, dragmode: false,
  };
  const axes = Object.fromEntries(["xaxis", "yaxis"].map((name) => {
    const own = layout[name] ?? {};
    return [name, { ...axis, ...own, title: { ...axis.title, ...own.title } }];
  }));
  const live = plot.querySelector(".live") ?? plot.appendChild(Object.assign(document.createElement("div"), { className: "live" }));
  drawn.add(plot);
  return Plotly.react(live, data, { ...base, ...layout, ...axes }, { displayModeBar: false, responsive: true });
}

// Every plot is a picture in the page. One to point at takes its place when it is about to be seen.
async function show(list) {
  await unpack();
  for (const plot of list) {
    if (drawn.has(plot)) continue;
    await draw(plot);
    await new Promise(requestAnimationFrame);
  }
}
const watch = new IntersectionObserver((seen) => {
  const near = seen.filter((entry) => entry.isIntersecting).map((entry) => entry.target);
  near.forEach((plot) => watch.unobserve(plot));
  if (near.length) show(near);
}, { rootMargin: "600px" });
plots.forEach((plot) => watch.observe(plot));

const repaint = () => drawn.forEach(draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

document.addEventListener("click", ({ target }) => {
  if (target.matches("button.all")) {
    target.parentElement.classList.remove("short");
    target.remove();
  } else if (target.matches("button.copy")) {
    const code = target.parentElement.querySelector("code");
    getSelection().selectAllChildren(code);
    navigator.clipboard?.writeText(code.textContent).then(() => { target.textContent = "Copied"; }, () => {});
  } else if (target.matches(".sortable th")) {
    sort(target);
  }
});

function sort(head) {
  const table = head.closest("table");
  const up = head.getAttribute("aria-sort") !== "ascending";
  table.querySelectorAll("th").forEach((th) => th.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = (row) => row.cells[head.cellIndex].textContent;
  const number = (text) => parseFloat(text.replaceAll(",", ""));
  const compare = (a, b) => number(a) - number(b) || a.localeCompare(b);
  const rows = [...table.tBodies[0].rows].sort((a, b) => (up ? 1 : -1) * compare(key(a), key(b)));
  const folded = table.closest(".short");
  folded?.querySelector("button.all")?.remove();
  folded?.classList.remove("short");
  table.tBodies[0].append(...rows);
}
