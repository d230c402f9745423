"use strict";
const list = document.getElementById("cards");
const menu = document.getElementById("sort");
const order = ["broken", "misclassified", "corrected", "correct"];
const keys = {
  gain: (card) => -Number(card.dataset.change),
  loss: (card) => Number(card.dataset.change),
  state: (card) => order.indexOf(card.dataset.state),
  index: (card) => Number(card.dataset.index),
};
if (list && menu) {
  menu.addEventListener("change", () => {
    const key = keys[menu.value];
    const cards = Array.from(list.children);
    cards.sort((one, other) => key(one) - key(other) || one.dataset.index - other.dataset.index);
    list.append(...cards);
  });
}
