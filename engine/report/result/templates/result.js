"use strict";
(() => {
  const $ = (query, from = document) => from.querySelector(query);
  const all = (query, from = document) => [...from.querySelectorAll(query)];

  /* Tables sort by what their cells hold: a number in data-v, else text. Empty values stay last. */
  const order = new Intl.Collator(undefined, { numeric: true });
  for (const table of all("table.sorts")) {
    all("thead th", table).forEach((head, column) => {
      const button = $("button", head);
      if (!button) return;
      button.addEventListener("click", () => {
        const first = head.dataset.first || "ascending";
        const other = first === "ascending" ? "descending" : "ascending";
        const now = head.getAttribute("aria-sort") === first ? other : first;
        all("thead th", table).forEach((one) => one.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", now);
        const sign = now === "ascending" ? 1 : -1;
        const value = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
        const numbers = head.classList.contains("n");
        const rows = [...table.tBodies[0].rows].sort((a, b) => {
          const [x, y] = [value(a), value(b)];
          if (x === "" || y === "") return (x === "") - (y === "");
          return sign * (numbers ? x - y : order.compare(x, y));
        });
        table.tBodies[0].append(...rows);
      });
    });
  }
  for (const field of all("input[data-filters]")) {
    const table = $("#" + field.dataset.filters), said = $("#" + field.dataset.filters + "-said");
    field.addEventListener("input", () => {
      const wanted = field.value.normalize("NFC").toLowerCase();
      let shown = 0;
      for (const row of table.tBodies[0].rows) {
        row.hidden = !row.textContent.normalize("NFC").toLowerCase().includes(wanted);
        shown += !row.hidden;
      }
      said.textContent = `${shown} of ${table.tBodies[0].rows.length}`;
    });
  }

  /* The contents say where the reader is. */
  const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) {
      links.forEach((link) => link.removeAttribute("aria-current"));
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-12% 0px -78% 0px" });
  all("main > section").forEach((section) => seen.observe(section));

  /* A photo, large: Enter opens it, arrows go on, H shows where the models looked, Esc closes. */
  const dialog = $("#light"), stage = $(".stage", dialog), frame = $(".frame", dialog);
  let shots = [], at = 0, opener = null;
  const show = (to) => {
    at = (to + shots.length) % shots.length;
    const shot = shots[at], picture = $("img.photo", shot), heat = $("img.heat", shot);
    frame.replaceChildren();
    if (picture) {
      const copy = picture.cloneNode();
      copy.alt = shot.getAttribute("aria-label");
      frame.append(copy);
    } else frame.append(Object.assign(document.createElement("p"), { className: "gone", textContent: "This photo is gone." }));
    if (heat) frame.append(heat.cloneNode());
    $("h3", dialog).textContent = shot.dataset.title;
    $(".more", dialog).textContent = shot.dataset.more;
    $(".id", dialog).textContent = shot.dataset.id;
    $(".place", dialog).textContent = `${at + 1} of ${shots.length}`;
    $(".toggle", dialog).hidden = !heat;
  };
  const toggle = () => {
    const warm = stage.classList.toggle("warm");
    $(".toggle", dialog).setAttribute("aria-pressed", warm);
  };
  for (const group of all("[data-shots]")) {
    const own = all(".shot", group);
    own.forEach((shot, place) => shot.addEventListener("click", () => {
      shots = own; opener = shot; show(place); dialog.showModal();
    }));
    group.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key], place = own.indexOf(document.activeElement);
      if (!step || place < 0) return;
      event.preventDefault();
      own[Math.max(0, Math.min(own.length - 1, place + step))].focus();
    });
  }
  $(".before", dialog).addEventListener("click", () => show(at - 1));
  $(".after", dialog).addEventListener("click", () => show(at + 1));
  $(".toggle", dialog).addEventListener("click", toggle);
  $(".close", dialog).addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => (shots[at] || opener)?.focus());
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") show(at + 1);
    else if (event.key === "ArrowLeft") show(at - 1);
    else if (event.key.toLowerCase() === "h" && !$(".toggle", dialog).hidden) toggle();
    else return;
    event.preventDefault();
  });
  for (const box of all("input.heats")) box.addEventListener("change", () =>
    document.body.classList.toggle("show-heat", box.checked));

  for (const button of all("button.copy")) button.addEventListener("click", async () => {
    const from = $("#" + button.dataset.copies);
    try { await navigator.clipboard.writeText(from.textContent); }
    catch {
      const range = document.createRange();
      range.selectNodeContents(from);
      getSelection().removeAllRanges(); getSelection().addRange(range);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1600);
  });

  /* The confusion matrix: a square of cells, rows the truth, columns the answer. */
  const canvas = $("#matrix");
  if (!canvas) return;
  const data = JSON.parse($("#matrix-data").textContent), count = data.names.length;
  const said = $("#matrix-said"), cells = data.rows.map((flat) => {
    const row = new Map();
    for (let i = 0; i < flat.length; i += 2) row.set(flat[i], flat[i + 1]);
    return row;
  });
  const orders = {
    alike: data.alike,
    name: data.names.map((_, i) => i).sort((a, b) => order.compare(data.names[a], data.names[b])),
    images: data.names.map((_, i) => i).sort((a, b) => data.images[b] - data.images[a]),
  };
  let places = orders.alike, row = 0, column = 0, held = false;
  let view = { x: 0, y: 0, size: count }; // in cells, of what is seen
  let box = { left: 0, top: 0, side: 1 }; // in pixels, of the square of cells
  const pen = canvas.getContext("2d");
  const share = (n, truth) => (data.images[truth] ? n / data.images[truth] : 0);
  const percent = (value) => (100 * value).toFixed(1) + "%";

  const tell = (r = row, c = column) => {
    const truth = places[r], answer = places[c], n = cells[truth].get(answer) || 0;
    const photos = data.images[truth].toLocaleString();
    said.textContent = truth === answer
      ? `${data.names[truth]}: ${n} of ${photos} answered rightly (${percent(share(n, truth))}).`
      : `True ${data.names[truth]}, answered ${data.names[answer]}: ${n} of ${photos} (${percent(share(n, truth))}).`;
  };
  const cut = (text, most) => {
    if (pen.measureText(text).width <= most) return text;
    let end = text.length;
    while (end > 1 && pen.measureText(text.slice(0, end) + "…").width > most) end--;
    return text.slice(0, end) + "…";
  };
  const draw = () => {
    const side = canvas.clientWidth, scale = devicePixelRatio || 1;
    if (canvas.width !== Math.round(side * scale)) canvas.width = canvas.height = Math.round(side * scale);
    const style = getComputedStyle(document.body), css = (name) => style.getPropertyValue(name).trim();
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, side, side);
    pen.font = `${side < 420 ? 10 : 12}px ${css("--sans")}`;
    const rough = (side * 0.8) / view.size, named = rough >= (side < 420 ? 9 : 12);
    const first = Math.floor(view.y), last = Math.min(count, Math.ceil(view.y + view.size));
    const from = Math.floor(view.x), to = Math.min(count, Math.ceil(view.x + view.size));
    const most = side * 0.24;
    const long = (a, b) => Math.max(0, ...places.slice(a, b).map((i) => Math.min(most, pen.measureText(data.names[i]).width)));
    const gutter = named ? Math.max(long(first, last), long(from, to)) + 12 : 22;
    box = { left: gutter, top: gutter, side: side - gutter - 8 };
    const cell = box.side / view.size;
    const px = (c) => box.left + (c - view.x) * cell, py = (r) => box.top + (r - view.y) * cell;
    pen.save();
    pen.beginPath(); pen.rect(box.left, box.top, box.side, box.side); pen.clip();
    pen.fillStyle = css("--sunk"); pen.fillRect(box.left, box.top, box.side, box.side);
    const right = css("--accent"), wrong = css("--wrong"), gap = cell > 7 ? 1 : 0;
    for (let r = first; r < last; r++) for (let c = from; c < to; c++) {
      const n = cells[places[r]].get(places[c]);
      if (!n) { if (gap) { pen.globalAlpha = 1; pen.fillStyle = css0; pen.fillRect(px(c), py(r), cell - gap, cell - gap); } continue; }
      const part = share(n, places[r]);
      pen.globalAlpha = r === c ? 0.12 + 0.88 * part : Math.min(1, 0.14 + 1.12 * Math.sqrt(part));
      pen.fillStyle = r === c ? right : wrong;
      pen.fillRect(px(c), py(r), Math.max(1, cell - gap), Math.max(1, cell - gap));
      if (cell >= 24) {
        pen.globalAlpha = 1;
        pen.fillStyle = (r === c ? part > 0.45 : part > 0.3) ? css("--card") : css("--ink");
        pen.textAlign = "center"; pen.textBaseline = "middle";
        pen.fillText(n > 9999 ? Math.round(n / 1000) + "k" : n, px(c) + (cell - gap) / 2, py(r) + cell / 2 + 0.5);
      }
    }
    pen.globalAlpha = 1;
    if (held) {
      pen.strokeStyle = css("--focus"); pen.lineWidth = 1;
      pen.globalAlpha = 0.35;
      pen.strokeRect(box.left - 1, py(row), box.side + 2, cell); pen.strokeRect(px(column), box.top - 1, cell, box.side + 2);
      pen.globalAlpha = 1; pen.lineWidth = 2;
      pen.strokeRect(px(column) - 1, py(row) - 1, Math.max(4, cell) + 1, Math.max(4, cell) + 1);
    }
    pen.restore();
    pen.fillStyle = css("--soft");
    if (named) {
      pen.textBaseline = "middle";
      for (let r = first; r < last; r++) {
        const y = py(r) + cell / 2;
        if (y < box.top || y > box.top + box.side) continue;
        pen.fillStyle = held && r === row ? css("--ink") : css("--soft");
        pen.textAlign = "right";
        pen.fillText(cut(data.names[places[r]], gutter - 10), box.left - 6, y);
      }
      for (let c = from; c < to; c++) {
        const x = px(c) + cell / 2;
        if (x < box.left || x > box.left + box.side) continue;
        pen.save();
        pen.fillStyle = held && c === column ? css("--ink") : css("--soft");
        pen.translate(x, box.top - 6); pen.rotate(-Math.PI / 2);
        pen.textAlign = "left";
        pen.fillText(cut(data.names[places[c]], gutter - 10), 0, 0);
        pen.restore();
      }
    } else {
      pen.textAlign = "left"; pen.textBaseline = "alphabetic";
      pen.fillText("answered →", box.left, box.top - 7);
      pen.save(); pen.translate(box.left - 7, box.top + box.side); pen.rotate(-Math.PI / 2); pen.fillText("true →", 0, 0); pen.restore();
    }
  };
  let css0 = "#fff";
  let due = 0;
  const soon = () => {
    css0 = getComputedStyle(document.body).getPropertyValue("--card").trim();
    cancelAnimationFrame(due); due = requestAnimationFrame(draw);
  };
  const keep = () => {
    view.size = Math.max(Math.min(count, 4), Math.min(count, view.size));
    view.x = Math.max(0, Math.min(count - view.size, view.x));
    view.y = Math.max(0, Math.min(count - view.size, view.y));
    canvas.dataset.zoom = (count / view.size).toFixed(2);
    canvas.style.touchAction = view.size < count ? "none" : "pan-x pan-y";
    soon();
  };
  const zoom = (factor, r = row + 0.5, c = column + 0.5) => {
    const before = view.size;
    view.size = Math.max(Math.min(count, 4), Math.min(count, view.size / factor));
    view.x = c - (c - view.x) * (view.size / before);
    view.y = r - (r - view.y) * (view.size / before);
    keep();
  };
  const go = (r, c) => {
    row = Math.max(0, Math.min(count - 1, r)); column = Math.max(0, Math.min(count - 1, c));
    held = true;
    view.x = Math.min(column, Math.max(view.x, column + 1 - view.size));
    view.y = Math.min(row, Math.max(view.y, row + 1 - view.size));
    canvas.dataset.cell = `${places[row]},${places[column]}`;
    tell(); keep();
  };
  const mistakes = cells.flatMap((own, truth) => [...own].filter(([answer]) => answer !== truth).map(([answer, n]) => [n, truth, answer]))
    .sort((a, b) => b[0] - a[0]);
  let worst = -1;
  const next = (step) => {
    if (!mistakes.length) return;
    worst = (worst + step + mistakes.length) % mistakes.length;
    go(places.indexOf(mistakes[worst][1]), places.indexOf(mistakes[worst][2]));
  };
  const whole = () => { view = { x: 0, y: 0, size: count }; keep(); };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = event.shiftKey ? 10 : 1;
    const does = {
      ArrowUp: () => go(row - step, column), ArrowDown: () => go(row + step, column),
      ArrowLeft: () => go(row, column - step), ArrowRight: () => go(row, column + step),
      Home: () => go(row, 0), End: () => go(row, count - 1), PageUp: () => go(0, column), PageDown: () => go(count - 1, column),
      "+": () => zoom(1.6), "=": () => zoom(1.6), "-": () => zoom(1 / 1.6), "0": whole, n: () => next(1), p: () => next(-1),
    }[event.key];
    if (!does) return;
    event.preventDefault(); does();
  });
  canvas.addEventListener("focus", () => { held = true; tell(); soon(); });
  canvas.addEventListener("blur", () => { held = false; soon(); });
  const cellAt = (event) => {
    const edge = canvas.getBoundingClientRect();
    const c = view.x + ((event.clientX - edge.left - box.left) / box.side) * view.size;
    const r = view.y + ((event.clientY - edge.top - box.top) / box.side) * view.size;
    return r >= view.y && c >= view.x && r < view.y + view.size && c < view.x + view.size ? [r, c] : null;
  };
  let grip = null;
  canvas.addEventListener("pointerdown", (event) => { grip = { x: event.clientX, y: event.clientY, view: { ...view }, moved: false }; });
  canvas.addEventListener("pointermove", (event) => {
    if (grip && event.buttons) {
      const [dx, dy] = [event.clientX - grip.x, event.clientY - grip.y];
      grip.moved ||= Math.hypot(dx, dy) > 5;
      if (grip.moved && view.size < count) {
        view.x = grip.view.x - (dx / box.side) * view.size; view.y = grip.view.y - (dy / box.side) * view.size; keep();
      }
      return;
    }
    const found = cellAt(event);
    if (found) tell(Math.floor(found[0]), Math.floor(found[1]));
  });
  canvas.addEventListener("pointerup", (event) => {
    const found = cellAt(event);
    if (grip && !grip.moved && found) { canvas.focus(); go(Math.floor(found[0]), Math.floor(found[1])); }
    grip = null;
  });
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas && !event.ctrlKey) return;
    const found = cellAt(event);
    if (!found) return;
    event.preventDefault(); zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, ...found);
  }, { passive: false });
  $("#matrix-in").addEventListener("click", () => zoom(1.6));
  $("#matrix-out").addEventListener("click", () => zoom(1 / 1.6));
  $("#matrix-whole").addEventListener("click", whole);
  $("#matrix-next").addEventListener("click", () => next(1));
  $("#matrix-order").addEventListener("change", (event) => {
    const [truth, answer] = [places[row], places[column]];
    places = orders[event.target.value];
    row = places.indexOf(truth); column = places.indexOf(answer);
    keep();
  });
  new ResizeObserver(soon).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", soon);
  keep();
})();
