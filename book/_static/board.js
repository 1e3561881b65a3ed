// Sorts and filters the score board. The table is complete without this file.
(() => {
  const start = () => {
    const table = document.querySelector("table.cn-board");
    if (!table) return;
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const filters = [...document.querySelectorAll("[data-filter]")];
    const count = document.querySelector(".cn-count");

    const wanted = (row) =>
      filters.every((field) => {
        const value = field.value.trim().toLowerCase();
        if (!value) return true;
        if (field.dataset.filter === "text")
          return value.split(/\s+/).every((word) => row.textContent.toLowerCase().includes(word));
        return row.dataset[field.dataset.filter].split(" ").includes(value);
      });

    const filter = () => {
      let shown = 0;
      for (const row of rows) {
        row.hidden = !wanted(row);
        shown += !row.hidden;
      }
      count.textContent = `${shown} of ${rows.length} papers`;
    };

    const order = (cell) => cell.dataset.order ?? cell.textContent.trim();

    const sort = (head) => {
      const column = head.cellIndex;
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const compare =
        head.dataset.kind === "number"
          ? (a, b) => Number(order(a.cells[column])) - Number(order(b.cells[column]))
          : (a, b) => order(a.cells[column]).localeCompare(order(b.cells[column]));
      const sorted = [...rows].sort(compare);
      if (down) sorted.reverse();
      if (head.dataset.kind === "text") {
        // Empty cells say nothing: they come last in either direction.
        const empty = (row) => order(row.cells[column]) === "";
        sorted.sort((a, b) => empty(a) - empty(b));
      }
      body.append(...sorted);
    };

    for (const field of filters) field.addEventListener("input", filter);
    for (const head of table.tHead.rows[0].cells)
      head.querySelector("button").addEventListener("click", () => sort(head));
    filter();
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
