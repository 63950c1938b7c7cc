// Search, theme, list at the side, copy, filter. The index is a script, so that everything works from a folder.
"use strict";
(() => {
  const root = document.documentElement, base = root.dataset.base, box = document.querySelector(".search input"), found = document.querySelector(".found");
  const kept = { get: (key) => { try { return localStorage.getItem(key); } catch { return null; } }, set: (key, value) => { try { localStorage.setItem(key, value); } catch { /* no storage: the choice lasts as long as the page */ } } };

  document.querySelector(".theme").addEventListener("click", () => {
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
    kept.set("theme", root.dataset.theme);
  });
  const menu = document.querySelector(".menu");
  menu.addEventListener("click", () => menu.setAttribute("aria-expanded", document.body.classList.toggle("open")));
  // scrolled by hand: scrollIntoView would move the whole page, too
  const side = document.querySelector(".side"), current = side.querySelector("[aria-current]");
  if (current) side.scrollTop = current.offsetTop - side.offsetTop - side.clientHeight / 3;

  // -------------------------------------------------------------------- search
  let loading = null;
  const index = () => loading ??= new Promise((done) => {
    const script = document.createElement("script");
    script.src = base + "static/search.js";
    script.onload = () => done(window.docsIndex.map((row) => ({ title: row[0], section: row[1], heading: row[2], place: row[3], words: row[4], low: [row[0], row[2], row[4]].map((text) => text.toLowerCase()) })));
    document.head.append(script);
  });
  const escaped = (text) => text.replace(/[&<>"]/g, (one) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[one]);
  const pattern = (terms) => new RegExp("(" + terms.map((term) => term.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|") + ")", "gi");
  const marked = (text, terms) => text.split(pattern(terms)).map((part, place) => (place % 2 ? "<mark>" + escaped(part) + "</mark>" : escaped(part))).join("");

  // every term must be there; a title counts most, a whole name more than a part of one, a guide more than a table
  const score = (row, terms) => {
    let total = row.section === "Guides" || row.section === "Start" ? 3 : row.section === "Reference" ? 1 : 0;
    for (const term of terms) {
      const [title, heading, words] = row.low, times = words.split(term).length - 1;
      if (!title.includes(term) && !heading.includes(term) && !times) return 0;
      total += (heading === term ? 30 : 0) + (title.includes(term) ? 8 : 0) + (heading.includes(term) ? 10 : 0) + 2 * Math.log2(1 + times);
    }
    return total;
  };
  const excerpt = (row, terms) => {
    const places = terms.map((term) => row.low[2].indexOf(term)).filter((place) => place >= 0), start = places.length ? Math.max(0, Math.min(...places) - 50) : 0;
    const text = row.words.slice(start, start + 170);
    return (start ? "… " : "") + marked(text, terms) + (start + 170 < row.words.length ? " …" : "");
  };
  const search = async () => {
    const asked = box.value, terms = asked.toLowerCase().split(/\s+/).filter((term) => term.length > 1);
    if (!terms.length) { found.hidden = true; return; }
    const rows = (await index()).map((row) => [score(row, terms), row]).filter((one) => one[0] > 0).sort((a, b) => b[0] - a[0]).slice(0, 24);
    if (box.value !== asked) return;
    found.innerHTML = rows.length ? rows.map(([, row]) => `<a href="${base}${escaped(row.place)}"><small>${escaped(row.section)}${row.heading ? " › " + escaped(row.title) : ""}</small>${marked(row.heading || row.title, terms)}<span>${excerpt(row, terms)}</span></a>`).join("") : `<p>Nothing about “${escaped(asked)}”.</p>`;
    found.hidden = false;
  };
  const move = (step) => {
    const links = [...found.querySelectorAll("a")], place = links.findIndex((link) => link.getAttribute("aria-selected"));
    links[place]?.removeAttribute("aria-selected");
    const next = links[(place + step + links.length) % links.length];
    next?.setAttribute("aria-selected", "true");
    next?.scrollIntoView({ block: "nearest" });
  };
  box.addEventListener("input", search);
  box.addEventListener("focus", () => { index(); if (box.value) search(); });
  box.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") { event.preventDefault(); move(event.key === "ArrowDown" ? 1 : -1); }
    else if (event.key === "Enter") (found.querySelector("[aria-selected]") || found.querySelector("a"))?.click();
    else if (event.key === "Escape") { found.hidden = true; box.blur(); }
  });
  document.addEventListener("click", (event) => {
    if (!event.target.closest(".search")) found.hidden = true;
    if (event.target.closest(".found a") || event.target.closest(".side a")) { found.hidden = true; document.body.classList.remove("open"); }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|TEXTAREA)$/.test(document.activeElement.tagName)) { event.preventDefault(); box.focus(); }
  });

  // -------------------------------------------------------------------- copy, filter, contents
  for (const block of document.querySelectorAll(".block.code")) {
    const button = Object.assign(document.createElement("button"), { className: "copy", type: "button", textContent: "copy" });
    button.addEventListener("click", async () => {
      const typed = [...block.querySelectorAll(".typed")].map((line) => line.textContent).join("\n");
      await navigator.clipboard.writeText(typed || block.querySelector("code").textContent);
      button.textContent = "copied";
      setTimeout(() => { button.textContent = "copy"; }, 1500);
    });
    block.append(button);
  }
  for (const input of document.querySelectorAll("[data-filter]")) {
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of document.querySelectorAll(`table.${input.dataset.filter} tbody tr`)) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    });
  }
  const links = new Map([...document.querySelectorAll(".contents a")].map((link) => [decodeURIComponent(link.hash.slice(1)), link]));
  const headings = [...links.keys()].map((id) => document.getElementById(id)).filter(Boolean);
  const here = () => {
    const above = headings.filter((heading) => heading.getBoundingClientRect().top < 140);
    for (const link of links.values()) link.classList.remove("here");
    links.get((above.at(-1) || headings[0])?.id)?.classList.add("here");
  };
  if (headings.length) { document.addEventListener("scroll", here, { passive: true }); here(); }
})();
