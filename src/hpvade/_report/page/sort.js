// a table of class "sortable" is sorted by the column whose heading is clicked
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, i) => row.cells[i].dataset.v ?? row.cells[i].textContent.trim();
  const sortBy = (i) => {
    const down = heads[i].getAttribute("aria-sort") !== "descending";
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[i].setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [value(a, i), value(b, i)];
      const numbers = x !== "" && y !== "" && !isNaN(x) && !isNaN(y);
      return (numbers ? x - y : x.localeCompare(y, undefined, { numeric: true })) * (down ? -1 : 1);
    });
    table.tBodies[0].append(...rows);
  };
  heads.forEach((head, i) => {
    head.tabIndex = 0;
    head.addEventListener("click", () => sortBy(i));
    head.addEventListener("keydown", (event) => event.key === "Enter" && sortBy(i));
  });
}
