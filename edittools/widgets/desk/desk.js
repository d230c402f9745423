// Small widgets of the desk: a gallery of images with their predictions, of which one can be selected, or each can be
// checked; a message that screen readers announce when it changes; and a notice that appears when the desk has ended.

const make = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
};

// A line below an image: a text, which may be cut off, a probability, which may not, and whether this is right.
const line = ([text, probability, isRight]) =>
  make(
    "span",
    { class: "et-line", "data-right": isRight ?? "" },
    make("span", { class: "et-name" }, text),
    make("span", { class: "et-percent" }, probability),
  );

// Keep the focus on the desk: a control that is disabled or hidden while it has the focus passes it on to what the desk
// says, so that the Tab key goes on from there.
function keepFocus(desk) {
  let last = null;
  const isLost = (node) => node.disabled || !node.isConnected || !node.getClientRects().length;
  desk.addEventListener("focusin", ({ target }) => (last = target));
  desk.addEventListener("focusout", ({ target }) => {
    if (target === last && !isLost(target)) last = null;
  });
  const pass = () => {
    if (!last || !isLost(last)) return;
    const active = document.activeElement;
    if (active === document.body || active === last) desk.querySelector(".et-says .et-message")?.focus();
    else last = null;
  };
  new MutationObserver(pass).observe(desk, { subtree: true, childList: true, attributeFilter: ["disabled", "style", "hidden"] });
}

// Watch the focus of the desk, as soon as the desk is part of the page.
function watchFocus(el, tries = 600) {
  const desk = el.closest(".et-desk");
  if (!desk && tries) setTimeout(() => watchFocus(el, tries - 1), 100);
  if (!desk || desk.dataset.watched) return;
  desk.dataset.watched = "true";
  keepFocus(desk);
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

  const select = (index) => {
    model.set("selected", index);
    model.save_changes();
    mark();
    cards[index].focus();
  };
  const moves = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };
  // Check or uncheck an image; `isRange` does the same to all images from it to the last one that was changed.
  let last = -1;
  const toggle = (index, isRange) => {
    const checked = new Set(model.get("checked"));
    const from = isRange && last >= 0 ? last : index;
    const state = from === index ? !checked.has(index) : checked.has(from);
    for (let each = Math.min(from, index); each <= Math.max(from, index); each++)
      state ? checked.add(each) : checked.delete(each);
    last = index;
    model.set("checked", [...checked]);
    model.save_changes();
    check();
  };
  const neighbor = (at, by) => Math.max(0, Math.min(cards.length - 1, at + by));
  // Arrow keys move the focus in the rows and columns of images that can be checked; Space checks or unchecks.
  const walk = (event) => {
    const at = cards.indexOf(event.target);
    if (!checkable || at < 0) return;
    const columns = cards.filter((card) => card.offsetTop === cards[0].offsetTop).length;
    const by = { ...moves, ArrowDown: columns, ArrowUp: -columns }[event.key];
    if (by) cards[neighbor(at, by)].focus();
    else if (event.key === " " && !event.repeat) toggle(at, event.shiftKey);
    else if (event.key !== " ") return;
    event.preventDefault(); // the button would be clicked as well
  };
  const reach = (index) => cards.forEach((card, other) => (card.tabIndex = other === index ? 0 : -1));
  const check = () => {
    if (!checkable) return;
    const checked = model.get("checked");
    cards.forEach((card, index) => card.setAttribute("aria-checked", String(checked.includes(index))));
  };
  const enlarge = (index) => {
    model.set("enlarged", index);
    model.save_changes();
  };
  root.addEventListener("keydown", walk);
  root.addEventListener("keyup", (event) => checkable && event.key === " " && event.preventDefault());
  root.addEventListener("focusin", ({ target }) => checkable && cards.includes(target) && reach(cards.indexOf(target)));
  root.addEventListener("keydown", (event) => {
    if (selectable && event.key === "Enter" && cards.includes(event.target)) {
      event.preventDefault();
      enlarge(cards.indexOf(event.target));
    }
    const at = cards.indexOf(document.activeElement);
    const by = moves[event.key];
    if (!selectable || !by || at < 0) return;
    event.preventDefault();
    select(neighbor(at, by));
  });

  // Make cards for new images; `fill` then writes the captions and predictions.
  const build = () => {
    const images = model.get("_images");
    last = -1;
    cards = images.map((jpeg, index) => {
      if (cards[index]?.jpeg === jpeg) return cards[index];
      const image = make("img", { src: `data:image/jpeg;base64,${jpeg}`, alt: "" });
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
        card.addEventListener("click", (event) => (checkable ? toggle(index, event.shiftKey) : select(index)));
        if (selectable) card.addEventListener("dblclick", () => enlarge(index));
      } else card.addEventListener("click", () => enlarge(index));
      return Object.assign(card, { jpeg });
    });
    root.replaceChildren(...cards);
    root.scrollTo(0, 0);
    if (checkable) reach(0);
    fill();
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
      card.tabIndex = index === (cards[selected] ? selected : 0) ? 0 : -1;
    });
  };
  const resize = () => {
    root.style.setProperty("--et-size", `${model.get("size")}px`);
    root.dataset.size = model.get("size");
  };
  const large = largeView(model, (index) => cards[index], enlarge);
  const explain = () => (root.dataset.placeholder = model.get("placeholder"));
  const follows = [
    ["placeholder", explain],
    ["_images", build],
    ["cards", fill],
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
function largeView(model, cardAt, enlarge) {
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
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = model.get("enlarged") + by;
    if (!by || !cardAt(next)) return;
    event.preventDefault();
    enlarge(next);
  });
  const show = () => {
    const index = model.get("enlarged");
    const card = model.get("cards")[index];
    const small = cardAt(index)?.jpeg;
    const png = model.get("_large_png");
    if (!card || !small) return dialog.open && dialog.close();
    image.src = png ? `data:image/png;base64,${png}` : `data:image/jpeg;base64,${small}`;
    image.alt = card.description;
    dialog.setAttribute("aria-label", card.description);
    name.textContent = card.name;
    lines.replaceChildren(...card.lines.map(line));
    dialog.dataset.state = card.state;
    if (!dialog.open && dialog.isConnected) dialog.showModal();
  };
  return { dialog, show };
}

function message({ model, el }) {
  const word = make("b", { class: "et-word" });
  const said = make("span");
  const text = make("div", { class: "et-message", role: "status", tabindex: -1 }, word, said);
  el.append(text);
  return follow(model, ["text", "alarm", "word", "tone"], () => {
    word.textContent = model.get("word");
    word.hidden = !word.textContent;
    word.dataset.tone = model.get("tone");
    said.textContent = model.get("text");
    text.classList.toggle("et-alarm", model.get("alarm"));
  });
}

const PAUSE = 500; // milliseconds between two questions to the server
const PATIENCE = 1200; // milliseconds within which it has to answer
const ENDS = ["restarting", "autorestarting", "terminating", "dead"]; // states of a kernel whose desk is gone

// Ask for the values that changed while the page was loading, and say that the desk has ended, and disable it, while
// its server does not answer, or for good when its kernel has ended.
function notice({ model, el }) {
  const { kernel } = model.widget_manager;
  const text = make("div", { class: "et-ended", role: "alert", hidden: "" });
  el.append(text);
  if (!kernel?.serverSettings) return () => {}; // neither JupyterLab, nor Notebook, nor voila
  model.send({ shown: true });
  let isGone = false;
  let timer;
  const show = (ended) => {
    const desk = el.closest(".et-desk");
    if (!desk || text.hidden !== ended) return;
    text.hidden = !ended;
    text.textContent = ended ? model.get("text") : "";
    for (const part of desk.children) if (!part.contains(el)) part.inert = ended;
    const escape = () => new KeyboardEvent("keydown", { key: "Escape", bubbles: true });
    for (const open of desk.querySelectorAll(".et-editor[popover]")) open.dispatchEvent(escape());
    for (const open of desk.querySelectorAll("dialog[open]")) open.close();
  };
  const address = `${kernel.serverSettings.baseUrl}api/kernels/${kernel.id}?no_track_activity=1`;
  const ask = async () => {
    const answer = await fetch(address, { signal: AbortSignal.timeout(PATIENCE), cache: "no-store" }).catch(() => null);
    isGone ||= [403, 404].includes(answer?.status); // the kernel is gone, or another desk is at this address
    if (timer !== null && !isGone) timer = setTimeout(ask, PAUSE);
    show(isGone || !answer || answer.status >= 502); // a proxy says so when the server behind it is gone
  };
  const listen = (_, status) => {
    isGone ||= ENDS.includes(status);
    show(isGone);
  };
  kernel.statusChanged.connect(listen);
  ask();
  return () => {
    clearTimeout(timer);
    timer = null;
    kernel.statusChanged.disconnect(listen);
  };
}

export default {
  render(context) {
    requestAnimationFrame(() => watchFocus(context.el));
    return { gallery, message, notice }[context.model.get("_kind")](context);
  },
};
