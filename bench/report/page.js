"use strict";

// Theme: as the system says, until the reader says otherwise.
{
  const button = document.getElementById("theme");
  const order = ["auto", "light", "dark"];
  const show = (theme) => {
    document.documentElement.dataset.theme = theme;
    button.querySelector("span").textContent = theme;
  };
  const stored = () => {
    try { return localStorage.getItem("theme"); } catch { return null; }
  };
  show(order.includes(stored()) ? stored() : "auto");
  button.hidden = false;
  button.addEventListener("click", () => {
    const next = order[(order.indexOf(document.documentElement.dataset.theme) + 1) % order.length];
    show(next);
    try { localStorage.setItem("theme", next); } catch { /* private windows keep nothing */ }
  });
}

// Contents and filter stand open beside the text, and closed above it.
{
  const wide = matchMedia("(min-width: 64rem)");
  const fold = () => document.querySelectorAll("aside details").forEach((one) => { one.open = wide.matches; });
  wide.addEventListener("change", fold);
  fold();
  addEventListener("beforeprint", () => document.querySelectorAll("main details").forEach((one) => { one.open = true; }));
}

// What a link leads to is opened; a figure opens large when it is asked for.
{
  const open = () => {
    let one = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const target = one;
    for (; one; one = one.parentElement) if (one.tagName === "DETAILS") one.open = true;
    if (target) target.scrollIntoView();
  };
  addEventListener("hashchange", open);
  open();
  const large = document.getElementById("large");
  large.querySelector("button").addEventListener("click", () => large.close());
  document.querySelectorAll(".picture").forEach((picture) => {
    const show = () => {
      large.querySelector("div").replaceChildren(Object.assign(new Image(), { src: picture.querySelector("img").src, alt: "" }));
      large.showModal();
    };
    picture.addEventListener("click", show);
    picture.addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); show(); } });
  });
}

// Sorting: by number where the cell holds one, else by text; gaps come last either way.
{
  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.className === "n" ? Number(cell.dataset.v ?? cell.textContent) : cell.textContent;
  };
  const gap = (one) => one === "-" || Number.isNaN(one);
  const compare = (a, b) => typeof a === "number" && typeof b === "number"
    ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  document.querySelectorAll("th > button").forEach((button) => button.addEventListener("click", () => {
    const head = button.parentElement;
    const down = head.getAttribute("aria-sort") === "ascending";
    head.parentElement.querySelectorAll("th").forEach((one) => one.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = head.closest("table").tBodies[0];
    const rows = [...body.rows].map((row) => [value(row, head.cellIndex), row]);
    rows.sort(([a], [b]) => gap(a) || gap(b) ? gap(a) - gap(b) : (down ? -1 : 1) * compare(a, b));
    body.append(...rows.map(([, row]) => row));
  }));
}

// Filter: nothing ticked shows everything; what names no task (or method) concerns them all.
{
  const form = document.getElementById("filter");
  const reset = document.getElementById("reset");
  const status = document.getElementById("shown");
  const boxes = [...form.querySelectorAll("input")];
  const articles = [...document.querySelectorAll("main article[data-tasks]")];
  const ticked = (name) => new Set(boxes.filter((box) => box.name === name && box.checked).map((box) => box.value));
  const meets = (wanted, names) => !wanted.size || !names.length || names.some((name) => wanted.has(name));
  const own = (row, name) => row.dataset[name] === undefined ? [] : [row.dataset[name]];
  const count = (kept, all, noun) => kept === all ? `all ${all} ${noun}` : `${kept} of ${all} ${noun}`;

  const apply = () => {
    const tasks = ticked("task"), methods = ticked("method");
    const shown = new Set();
    for (const article of articles) {
      const { tasks: hasTasks, methods: hasMethods } = article.dataset;
      article.hidden = !(meets(tasks, JSON.parse(hasTasks)) && meets(methods, JSON.parse(hasMethods)));
      if (!article.hidden) shown.add(article.id);
    }
    let rows = 0, kept = 0;
    for (const row of document.querySelectorAll("main tbody tr")) {
      row.hidden = !(meets(tasks, own(row, "task")) && meets(methods, own(row, "method")));
      rows += 1;
      kept += !row.hidden && !row.closest("article[hidden]");
    }
    for (const section of document.querySelectorAll("main section")) {
      const note = section.querySelector(".none"), parts = section.querySelectorAll("article");
      if (note) note.hidden = !parts.length || [...parts].some((one) => !one.hidden);
    }
    const ids = new Set(articles.map((one) => one.id));
    for (const link of document.querySelectorAll("nav ul a")) {
      const id = decodeURIComponent(link.hash.slice(1));
      link.parentElement.hidden = ids.has(id) && !shown.has(id);
    }
    reset.disabled = !boxes.some((box) => box.checked);
    status.textContent = `Showing ${count(shown.size, articles.length, "exhibits")} and ${count(kept, rows, "table rows")}.`;
  };

  form.hidden = !boxes.length;
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  reset.addEventListener("click", () => {
    boxes.forEach((box) => { box.checked = false; });
    apply();
    boxes[0].focus();
  });
  apply();
}
