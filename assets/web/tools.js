/* What the other scripts share. */
(() => {
  "use strict";

  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };

  const ordinal = (n) => {
    const tail = n % 100 > 10 && n % 100 < 14 ? "th" : ["th", "st", "nd", "rd"][n % 10] || "th";
    return n + tail;
  };

  /* Three digits, as a person would write them. */
  const number = (x) => {
    const large = Math.abs(x) >= 10000 || (x !== 0 && Math.abs(x) < 0.001);
    return large ? x.toExponential(2) : String(+x.toPrecision(3));
  };

  /* Python's round(): halves go to the even neighbour, so that both sides count alike. */
  const roundEven = (x) => {
    const low = Math.floor(x);
    if (x - low !== 0.5) return Math.round(x);
    return low % 2 === 0 ? low : low + 1;
  };

  /* How many tokens a budget in percent leaves, at least one an image. */
  const tokensFor = (percent, total, images) => Math.max(images, roundEven((percent / 100) * total));

  /* One of several things to choose, side by side. entries: [name, label, title]. -> {root, inputs by name}. */
  const radios = (label, entries, choose) => {
    const root = make("div", "vt-views");
    root.setAttribute("role", "radiogroup");
    root.setAttribute("aria-label", label);
    const group = `radios-${Math.random().toString(36).slice(2)}`;
    const inputs = {};
    for (const [name, text, title] of entries) {
      const wrap = make("label", "vt-view");
      const input = make("input");
      input.type = "radio";
      input.name = group;
      input.value = name;
      input.addEventListener("change", () => choose(name));
      wrap.append(input, make("span", "", text));
      if (title) wrap.dataset.title = wrap.title = title;
      inputs[name] = input;
      root.append(wrap);
    }
    return { root, inputs };
  };

  /* One of these buttons can or cannot be pressed; reason: why it cannot, empty when it can. */
  const rest = (input, reason) => {
    const label = input.parentElement;
    input.disabled = Boolean(reason);
    label.title = reason || label.dataset.title || "";
  };

  /* One entry of a legend: a sample, and what it stands for. */
  const swatch = (className, text) => {
    const item = make("span", "vt-key");
    item.append(make("i", className), make("span", "", text));
    return item;
  };

  /* Gradio hears of a click a moment later, and queues the work of each one that came until then. */
  const MOMENT = 300; // milliseconds
  let last = { button: null, time: 0 };
  document.addEventListener(
    "click",
    (event) => {
      const button = event.target.closest("button.vt-once");
      if (!button) return;
      const again = button === last.button && event.timeStamp - last.time < MOMENT;
      last = { button, time: event.timeStamp };
      if (again) event.stopImmediatePropagation();
    },
    true,
  );

  /* Why a button rests: Gradio's buttons take no title. */
  const RESTS = [
    ['button[id$="-stop"]', "Ends the work; it rests while nothing is running."],
    ["button.vt-once", "It rests while the work that it began goes on."],
  ];
  new MutationObserver(() => {
    for (const [selector, words] of RESTS) {
      for (const button of document.querySelectorAll(`${selector}:not([title])`)) button.title = words;
    }
  }).observe(document.documentElement, { childList: true, subtree: true });

  window.vtprune = Object.assign(window.vtprune || {}, { make, swatch, ordinal, number, tokensFor, radios, rest });
})();
