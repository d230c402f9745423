// Four small widgets of the desk: pictures with bars (a strip to choose from, or results), a slider, words that screen
// readers hear when they change, and code to copy.
// What Python sets is shown at once; the desk's shortcuts never reach JupyterLab.

const make = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
};
const percent = (chance) => `${Math.round(100 * chance)} %`;
const send = (model, name, value) => {
  model.set(name, value);
  model.save_changes();
};

// Keep letters from meaning something to JupyterLab anywhere on the desk, once it hangs in the page.
function shield(el, tries = 600) {
  const desk = el.closest(".et-desk") ?? el;
  if (!desk.dataset.shielded) desk.addEventListener("keydown", (event) => event.stopPropagation());
  desk.dataset.shielded = "true";
  if (desk === el && tries) setTimeout(() => shield(el, tries - 1), 100);
}

function bars(rows) {
  return rows.map(([name, now, before]) => {
    const bar = make("span", { class: "et-bar" }, make("i"));
    bar.firstChild.style.width = `${100 * now}%`;
    if (before !== null) {
      bar.append(make("b"));
      bar.lastChild.style.left = `${100 * before}%`;
    }
    return make("span", { class: "et-read" }, make("span", { class: "et-class" }, name), make("span", { class: "et-chance" }, percent(now)), bar);
  });
}

function pictures({ model, el }) {
  const selectable = model.get("selectable");
  const root = make("div", { class: `et-pictures ${selectable ? "et-strip" : "et-results"}`, "aria-label": model.get("label"),
    role: selectable ? "listbox" : "list", ...(selectable ? { "aria-orientation": "horizontal" } : {}) });
  root.style.setProperty("--et-size", `${model.get("size")}px`);
  let cards = [];

  const choose = (index, focus = false) => {
    if (index < 0 || index >= cards.length) return;
    send(model, "selected", index);
    mark();
    if (focus) cards[index].focus();
  };
  const moves = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  const keydown = (event) => {
    const at = cards.indexOf(document.activeElement);
    const to = event.key === "Home" ? 0 : event.key === "End" ? cards.length - 1 : at + (moves[event.key] ?? NaN);
    if (Number.isNaN(to) || at < 0) return;
    event.preventDefault();
    choose(Math.max(0, Math.min(cards.length - 1, to)), true);
  };
  if (selectable) root.addEventListener("keydown", keydown);

  // The cards anew, with their pictures; `fill` then says what is read in them.
  const build = () => {
    cards = model.get("_pictures").map((png, index) => {
      const shown = make("span", { class: "et-picture" }, make("img", { src: `data:image/png;base64,${png}`, alt: "" }));
      const card = make(selectable ? "button" : "div", { class: "et-card", role: selectable ? "option" : "listitem" },
        shown, make("span", { class: "et-caption" }), make("span", { class: "et-reads" }));
      if (selectable) card.addEventListener("click", () => choose(index));
      return card;
    });
    const kinds = model.get("cards").map((card) => card.kind ?? "");
    root.replaceChildren(...cards.flatMap((card, i) => (kinds[i] && kinds[i] !== kinds[i - 1] ? [make("div", { class: "et-kind" }, kinds[i]), card] : [card])));
    fill();
    lay();
    mark();
  };
  const fill = () => {
    model.get("cards").forEach((card, index) => {
      if (!cards[index]) return;
      const [, caption, reads] = cards[index].children;
      cards[index].dataset.state = card.state;
      cards[index].setAttribute("aria-label", card.said);
      cards[index].title = card.said;
      caption.textContent = card.caption;
      const old = [...reads.querySelectorAll("i")], rows = bars(card.rows);
      const widths = rows.map((row) => row.querySelector("i").style.width);
      rows.forEach((row, i) => old[i] && (row.querySelector("i").style.width = old[i].style.width));
      reads.replaceChildren(...rows);
      requestAnimationFrame(() => rows.forEach((row, i) => (row.querySelector("i").style.width = widths[i])));
    });
  };
  const lay = () => {
    const overlays = model.get("_overlays");
    cards.forEach((card, index) => {
      card.querySelector(".et-overlay")?.remove();
      if (overlays[index]) card.firstChild.append(make("img", { class: "et-overlay", src: `data:image/png;base64,${overlays[index]}`, alt: "" }));
    });
    root.classList.toggle("et-firing", model.get("show_overlays"));
  };
  const mark = () => {
    if (!selectable) return;
    const selected = model.get("selected");
    cards.forEach((card, index) => {
      card.setAttribute("aria-selected", String(index === selected));
      card.tabIndex = index === Math.max(selected, 0) ? 0 : -1;
    });
    const card = cards[selected];
    if (card) root.scrollTo({ left: card.offsetLeft - root.clientWidth / 2 + card.offsetWidth / 2, behavior: "smooth" });
  };
  const events = { "change:_pictures": build, "change:cards": fill, "change:_overlays": lay, "change:show_overlays": lay, "change:selected": mark };
  for (const [name, handler] of Object.entries(events)) model.on(name, handler);
  build();
  el.append(root);
  return () => Object.entries(events).forEach(([name, handler]) => model.off(name, handler));
}

function slider({ model, el }) {
  const input = make("input", { type: "range", min: model.get("least"), max: model.get("most"), step: model.get("step"), "aria-label": model.get("label") });
  const value = make("output", { class: "et-value" });
  const show = () => {
    input.value = model.get("value");
    value.textContent = Number(model.get("value")).toFixed(2);
  };
  input.addEventListener("input", () => {
    send(model, "value", Number(input.value));
    value.textContent = Number(input.value).toFixed(2);
  });
  model.on("change:value", show);
  show();
  el.append(make("label", { class: "et-slider" }, make("span", {}, model.get("caption")), input, value));
  return () => model.off("change:value", show);
}

function said({ model, el }) {
  const root = make("div", { class: "et-said", role: model.get("role") });
  const show = () => (root.textContent = model.get("text"));
  model.on("change:text", show);
  show();
  el.append(root);
  return () => model.off("change:text", show);
}

function code({ model, el }) {
  const text = make("textarea", { readonly: "", spellcheck: "false", "aria-label": "Python that makes the edit", class: "et-code" });
  const done = make("span", { role: "status", class: "et-quiet" });
  const copy = make("button", { class: "et-button" }, "Copy as code");
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text.value);
      done.textContent = "copied";
    } catch {
      text.select();
      done.textContent = "selected: press Ctrl+C";
    }
  });
  const show = () => {
    text.value = model.get("text");
    text.rows = Math.min(14, Math.max(4, text.value.split("\n").length));
    done.textContent = "";
  };
  model.on("change:text", show);
  show();
  el.append(make("details", { class: "et-details" }, make("summary", {}, "The same in Python"), make("div", { class: "et-row" }, copy, done), text));
  return () => model.off("change:text", show);
}

export default {
  render(context) {
    requestAnimationFrame(() => shield(context.el));
    return { pictures, slider, said, code }[context.model.get("_kind")](context);
  },
};
