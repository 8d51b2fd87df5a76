// Tables in a `<div class="sortable">`: a click on a column's title sorts the rows by it, a second
// click turns the order round. Numbers sort as numbers, and empty cells come last.
document.addEventListener("click", ({ target }) => {
  const title = target.closest(".sortable th");
  if (!title) return;
  const column = title.cellIndex;
  const body = title.closest("table").tBodies[0];
  const falling = title.getAttribute("aria-sort") === "ascending";
  const value = (row) => row.cells[column].textContent.trim().replaceAll(",", "");
  const compare = (one, other) => {
    const [a, b] = [value(one), value(other)];
    if (!a || !b) return !a - !b;
    return (falling ? -1 : 1) * a.localeCompare(b, "en", { numeric: true });
  };
  for (const other of title.parentNode.cells) other.removeAttribute("aria-sort");
  title.setAttribute("aria-sort", falling ? "descending" : "ascending");
  body.append(...[...body.rows].sort(compare));
});
