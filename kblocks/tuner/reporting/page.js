// Draws the plots, again whenever the page turns dark or light, and sorts the table.
"use strict";
const plots = JSON.parse(document.getElementById("plots").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const views = new Map();

async function draw(figure) {
  const box = document.getElementById(figure.id);
  views.get(figure.id)?.finalize();
  const spec = structuredClone(figure.spec);
  spec.datasets.trials = plots.trials.map((row) => ({ ...row }));
  try {
    const made = await vegaEmbed(box, spec, {
      actions: false,
      ast: true, // without eval, which the page's policy forbids
      config: dark.matches ? plots.dark : plots.light,
      renderer: figure.canvas || plots.trials.length > 600 ? "canvas" : "svg",
      tooltip: { theme: dark.matches ? "dark" : "light" },
    });
    views.set(figure.id, made);
  } catch (error) {
    box.textContent = "This plot could not be drawn.";
    console.error(figure.id, error);
  }
}

async function drawAll() {
  for (const figure of plots.figures) {
    const folded = document.getElementById(figure.id).closest("details:not([open])");
    if (!folded) await draw(figure);
  }
  document.documentElement.dataset.drawn = "yes";
}

for (const folded of document.querySelectorAll("details:has(.plot)")) {
  folded.addEventListener("toggle", () => {
    const inside = plots.figures.filter(
      (figure) => folded.contains(document.getElementById(figure.id)) && !views.has(figure.id),
    );
    if (folded.open) inside.forEach(draw);
  });
}
dark.addEventListener("change", drawAll);

function sort(table, column, head) {
  const up = head.getAttribute("aria-sort") !== "ascending";
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => [row.cells[column], row]);
  const empty = (cell) => cell.textContent === "" || cell.textContent === "–";
  const compare = (one, other) =>
    "v" in one.dataset && "v" in other.dataset
      ? one.dataset.v - other.dataset.v
      : one.textContent.localeCompare(other.textContent, "en", { numeric: true });
  keyed.sort(([one], [other]) => {
    if (empty(one) || empty(other)) return empty(one) - empty(other); // last, either way
    return up ? compare(one, other) : compare(other, one);
  });
  body.append(...keyed.map(([, row]) => row));
  for (const cell of head.parentNode.cells) cell.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
}

for (const table of document.querySelectorAll("table.trials")) {
  [...table.tHead.rows[0].cells].forEach((head, column) =>
    head.addEventListener("click", () => sort(table, column, head)),
  );
}
drawAll();
