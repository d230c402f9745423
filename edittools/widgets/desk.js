// Two small widgets of the desk: a gallery of images with their predictions, one of which can be selected, and a message
// that screen readers announce when it changes, with details on demand. The desk's keys never reach JupyterLab.

const make = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
};

// A line below an image: a text, which may be cut off, and a probability, which may not.
const line = ([text, probability]) =>
  make(
    "span",
    { class: "et-line" },
    make("span", { class: "et-name" }, text),
    make("span", { class: "et-percent" }, probability),
  );

// Keep the keys that are pressed on the desk from JupyterLab, as soon as the desk is part of the page.
function shield(el, tries = 600) {
  const desk = el.closest(".et-desk") ?? el;
  if (!desk.dataset.shielded) desk.addEventListener("keydown", (event) => event.stopPropagation());
  desk.dataset.shielded = "true";
  if (desk === el && tries) setTimeout(() => shield(el, tries - 1), 100);
}

// Call `show` now, and whenever one of the model's values changes; returns a function that ends this.
function follow(model, names, show) {
  const events = names.map((name) => `change:${name}`).join(" ");
  model.on(events, show);
  show();
  return () => model.off(events, show);
}

function gallery({ model, el }) {
  const selectable = model.get("selectable");
  const checkable = model.get("checkable");
  const root = make("div", {
    class: "et-gallery",
    role: selectable ? "listbox" : "group",
    "aria-label": model.get("label"),
  });
  let cards = [];
  let visible = [];

  const select = (index) => {
    model.set("selected", index);
    model.save_changes();
    mark();
    cards[index].focus();
  };
  const moves = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };
  const toggle = (index) => {
    const checked = new Set(model.get("checked"));
    if (!checked.delete(index)) checked.add(index);
    model.set("checked", [...checked]);
    model.save_changes();
    check();
  };
  const check = () => {
    if (!checkable) return;
    const checked = model.get("checked");
    cards.forEach((card, index) => card.setAttribute("aria-checked", String(checked.includes(index))));
  };
  const enlarge = (index) => {
    model.set("enlarged", index);
    model.save_changes();
  };
  root.addEventListener("keydown", (event) => {
    if (selectable && event.key === "Enter" && cards.includes(event.target)) {
      event.preventDefault();
      enlarge(cards.indexOf(event.target));
    }
    const at = visible.indexOf(cards.indexOf(document.activeElement));
    const by = moves[event.key];
    if (!selectable || !by || at < 0) return;
    event.preventDefault();
    select(visible[Math.max(0, Math.min(visible.length - 1, at + by))]);
  });

  // Make cards for new images; `fill` then writes the captions and predictions, and `arrange` orders the cards.
  const build = () => {
    const images = model.get("_images");
    cards = images.map((png, index) => {
      if (cards[index]?.png === png) return cards[index];
      const image = make("img", { src: `data:image/png;base64,${png}`, alt: "" });
      const card = make(
        "button",
        { type: "button", class: "et-card", "aria-keyshortcuts": "Enter" },
        image,
        make("span", { class: "et-caption" }),
        make("span", { class: "et-prediction" }),
      );
      if (selectable || checkable) {
        const lens = make("span", { class: "et-lens", title: "Enlarge (Enter)", "aria-hidden": "true" }, "⤢");
        lens.addEventListener("click", (event) => {
          event.stopPropagation();
          enlarge(index);
        });
        card.append(lens);
        card.setAttribute("role", checkable ? "checkbox" : "option");
        card.addEventListener("click", () => (checkable ? toggle(index) : select(index)));
        if (selectable) card.addEventListener("dblclick", () => enlarge(index));
      } else card.addEventListener("click", () => enlarge(index));
      return Object.assign(card, { png });
    });
    arrange();
    fill();
  };
  // Put the visible cards into their order; the one that has the focus keeps it.
  const arrange = () => {
    const focused = cards.indexOf(document.activeElement);
    const order = model.get("order").filter((index) => cards[index]);
    visible = order.length ? order : cards.map((_, index) => index);
    root.replaceChildren(...visible.map((index) => cards[index]));
    if (visible.includes(focused)) cards[focused].focus({ preventScroll: true });
    root.scrollTo(0, 0);
    mark();
  };
  const fill = () => {
    model.get("cards").forEach((card, index) => {
      if (!cards[index]) return;
      const [image, caption, prediction] = cards[index].children;
      const [first, ...others] = card.lines.map(line);
      image.alt = card.description;
      caption.replaceChildren(first);
      prediction.replaceChildren(...others);
      cards[index].dataset.state = card.state;
      cards[index].dataset.marked = card.marked;
      cards[index].title = card.description;
      cards[index].setAttribute("aria-label", card.description);
    });
    mark();
    check();
  };
  const mark = () => {
    if (!selectable) return;
    const selected = model.get("selected");
    cards.forEach((card, index) => {
      card.setAttribute("aria-selected", String(index === selected));
      card.tabIndex = index === (visible.includes(selected) ? selected : visible[0]) ? 0 : -1;
    });
  };
  const resize = () => {
    root.style.setProperty("--et-size", `${model.get("size")}px`);
    root.dataset.size = model.get("size");
  };
  const large = largeView(
    model,
    () => visible,
    (index) => cards[index],
    enlarge,
  );
  const explain = () => (root.dataset.placeholder = model.get("placeholder"));
  const follows = [
    ["placeholder", explain],
    ["_images", build],
    ["cards", fill],
    ["order", arrange],
    ["selected", mark],
    ["checked", check],
    ["size", resize],
  ];
  const ends = follows.map(([name, show]) => follow(model, [name], show));
  ends.push(follow(model, ["enlarged", "_large_png", "cards"], large.show));
  el.append(root, large.dialog);
  return () => ends.forEach((end) => end());
}

// The large view of an image with its names and probabilities: Esc closes it, arrow keys show the next or previous one.
function largeView(model, visible, cardAt, enlarge) {
  const image = make("img", { alt: "" });
  const name = make("b");
  const lines = make("div", { class: "et-prediction" });
  const close = make(
    "button",
    { type: "button", class: "et-close-large", "aria-label": "Close", title: "Close (Esc)" },
    "✕",
  );
  const dialog = make(
    "dialog",
    { class: "et-large" },
    make("div", { class: "et-large-title" }, name, close),
    image,
    lines,
  );
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // outside of the view
  dialog.addEventListener("close", () => {
    const card = cardAt(model.get("enlarged"));
    if (card) enlarge(-1);
    card?.focus();
  });
  dialog.addEventListener("keydown", (event) => {
    const order = visible();
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const at = order.indexOf(model.get("enlarged")) + by;
    if (!by || !(at in order)) return;
    event.preventDefault();
    enlarge(order[at]);
  });
  const show = () => {
    const index = model.get("enlarged");
    const card = model.get("cards")[index];
    const small = cardAt(index)?.png;
    if (!card || !small) return dialog.open && dialog.close();
    image.src = `data:image/png;base64,${model.get("_large_png") || small}`;
    image.alt = card.description;
    dialog.setAttribute("aria-label", card.description);
    name.textContent = card.name;
    lines.replaceChildren(...card.full.map(line));
    dialog.dataset.state = card.state;
    if (!dialog.open && dialog.isConnected) dialog.showModal();
  };
  return { dialog, show };
}

function message({ model, el }) {
  const text = make("div", { class: "et-message", role: "status" });
  const long = make("div");
  const details = make("details", { class: "et-details" }, make("summary", {}, "Details"), long);
  el.append(text, details);
  return follow(model, ["text", "alarm", "details"], () => {
    text.textContent = model.get("text");
    text.classList.toggle("et-alarm", model.get("alarm"));
    if (long.textContent !== model.get("details")) details.open = false;
    long.textContent = model.get("details");
    details.hidden = !long.textContent;
  });
}

export default {
  render(context) {
    requestAnimationFrame(() => shield(context.el));
    return { gallery, message }[context.model.get("_kind")](context);
  },
};
