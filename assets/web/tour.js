/* The guided tour: a small card that walks over the real page. The steps are data, from ui/tour.py. */
(() => {
  "use strict";

  const PLACE = "vtprune-tour"; // where one was, as the step's id
  const GAP = 16; // pixels between the card and what it points at
  const PICTURES = "#vt-see .vt-figure";
  const NARROW = 860; // pixels; below, the card lies at the bottom edge

  const { make } = window.vtprune;
  const { acts, tests, LOOK } = window.vtprune.touring;
  const one = (selector) => document.querySelector(selector);
  const calm = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  const frame = () => new Promise((done) => requestAnimationFrame(() => done()));

  /* Where one was; storage may be forbidden, and then it lasts as long as the page. */
  const memory = {
    id: null,
    read() {
      try {
        return localStorage.getItem(PLACE) || memory.id;
      } catch {
        return memory.id;
      }
    },
    write(id) {
      memory.id = id;
      try {
        if (id === null) localStorage.removeItem(PLACE);
        else localStorage.setItem(PLACE, id);
      } catch {
        return;
      }
    },
  };

  /* The box around everything that a selector finds and that can be seen; or null. */
  function around(selector) {
    const boxes = [...document.querySelectorAll(selector)]
      .map((node) => node.getBoundingClientRect())
      .filter(({ width, height }) => width && height);
    if (!boxes.length) return null;
    const left = Math.min(...boxes.map((box) => box.left));
    const top = Math.min(...boxes.map((box) => box.top));
    const right = Math.max(...boxes.map((box) => box.right));
    const bottom = Math.max(...boxes.map((box) => box.bottom));
    return { left, top, right, bottom };
  }

  const overlap = (a, b) =>
    Math.max(0, Math.min(a.right, b.right) - Math.max(a.left, b.left)) *
    Math.max(0, Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top));

  class Tour {
    constructor(value) {
      this.value = value;
      this.steps = value.steps;
      this.index = null; // of the step that is shown
      this.turn = 0; // counts arrivals, so that a late one gives way
      this.changed = () => {}; // somebody wants to know that the place changed
      this.build();
      document.addEventListener("keydown", (event) => event.key === "Escape" && this.leave(), true);
      for (const kind of ["scroll", "resize"]) {
        window.addEventListener(kind, () => this.open && this.aim(), { passive: true });
      }
      for (const kind of ["wheel", "touchmove", "keydown", "pointerdown"]) {
        window.addEventListener(kind, () => (this.own = true), { passive: true });
      }
      for (const kind of ["pointerdown", "pointerup", "pointercancel"]) {
        window.addEventListener(kind, () => (this.held = kind === "pointerdown"), { passive: true });
      }
    }

    get narrow() {
      return window.innerWidth <= NARROW;
    }

    get open() {
      return this.index !== null;
    }

    /* The step to go on with: 0 for a tour that was never begun. */
    get place() {
      return Math.max(0, this.steps.findIndex(({ id }) => id === memory.read()));
    }

    build() {
      this.ring = make("div", "vt-tour-ring");
      this.ring.setAttribute("aria-hidden", "true");
      this.card = make("section", "vt-tour-card");
      this.card.tabIndex = -1;
      for (const [name, text] of [
        ["role", "dialog"],
        ["aria-modal", "false"],
        ["aria-labelledby", "vt-tour-title"],
        ["aria-describedby", "vt-tour-text"],
      ]) {
        this.card.setAttribute(name, text);
      }
      const button = (className, text, press) => {
        const node = make("button", className, text);
        node.type = "button";
        node.addEventListener("click", press);
        return node;
      };
      this.count = make("span", "vt-tour-count");
      this.bar = make("span", "vt-tour-bar");
      this.bar.setAttribute("aria-hidden", "true");
      this.bar.append(...this.steps.map(() => make("i")));
      const head = make("div", "vt-tour-head");
      head.append(this.count, this.bar, button("vt-tour-leave", "Leave", () => this.leave()));
      this.title = make("h2");
      this.title.id = "vt-tour-title";
      this.text = make("p");
      this.text.id = "vt-tour-text";
      this.task = make("div", "vt-tour-task");
      this.asked = make("p");
      this.there = button("vt-tour-there", "Take me there", () => this.toTask());
      this.done = make("p", "vt-tour-done");
      this.done.setAttribute("role", "status");
      this.task.append(this.asked, this.there);
      this.back = button("vt-tour-back", "Back", () => this.go(this.index - 1));
      this.next = button("vt-tour-next", "Next", () => this.go(this.index + 1));
      const foot = make("div", "vt-tour-foot");
      foot.append(this.back, this.next);
      this.card.append(head, this.title, this.text, this.task, this.done, foot);
    }

    /* ---- going ---- */

    start(index = this.place) {
      if (!this.open) {
        this.before = document.activeElement;
        document.body.append(this.ring, this.card);
        this.timer = setInterval(() => this.look(), LOOK);
      }
      this.go(index);
    }

    leave() {
      if (!this.open) return;
      this.index = null;
      this.turn += 1;
      clearInterval(this.timer);
      this.ring.remove();
      this.card.remove();
      document.body.style.paddingBottom = "";
      const held = this.before && this.before.isConnected && this.before !== document.body;
      const back = held ? this.before : one(".vt-tour-start");
      if (back) back.focus({ preventScroll: true });
      this.changed();
    }

    async go(index) {
      if (index >= this.steps.length) {
        memory.write(null);
        this.leave();
        return;
      }
      const turn = (this.turn += 1);
      this.index = Math.max(0, index);
      const step = this.steps[this.index];
      memory.write(step.id);
      this.ready = this.met = false;
      this.later = ""; // what to look at once the task is done and the pointer is up
      this.at = step.at;
      this.write(step);
      this.changed();
      this.card.focus({ preventScroll: true });
      for (const { kind, value } of step.acts) {
        await acts[kind](value, this.value);
        await frame();
        if (turn !== this.turn) return; // somebody went on, or left
      }
      this.ready = true;
      this.own = false;
      this.bring();
    }

    write({ title, text, task }) {
      this.count.textContent = `Step ${this.index + 1} of ${this.steps.length}`;
      [...this.bar.children].forEach((dot, i) => dot.classList.toggle("is-past", i <= this.index));
      this.title.textContent = title;
      this.text.textContent = text;
      this.task.hidden = !task;
      this.asked.textContent = task ? `Your turn: ${task.words[0].toLowerCase()}${task.words.slice(1)}` : "";
      this.done.textContent = "";
      this.back.disabled = this.index === 0;
      this.next.textContent = this.index === this.steps.length - 1 ? "Finish" : "Next";
      this.ring.hidden = true;
    }

    /* The control of the task, for those who do not point. */
    toTask() {
      const control = one(this.steps[this.index].task.go);
      if (!control) return;
      control.scrollIntoView({ block: "center" });
      control.focus({ preventScroll: true });
    }

    /* ---- what is pointed at ---- */

    /* Bring it into view, above the card on a narrow screen. */
    bring() {
      const box = around(this.at);
      if (!box) return;
      this.spot = box.top + window.scrollY;
      const card = this.narrow ? this.card.offsetHeight : 0;
      document.body.style.paddingBottom = `${card}px`; // so that the end of the page can be above the card
      const free = window.innerHeight - card;
      const fits = box.top >= GAP && box.bottom <= free - GAP;
      if (this.narrow || !fits) {
        const top = this.spot - Math.max(GAP, (free - (box.bottom - box.top)) / 2);
        window.scrollTo({ top, behavior: calm() ? "auto" : "smooth" });
      }
      this.aim(true);
    }

    /* What was brought into view has moved, as the page was still growing; unless somebody scrolls. */
    slipped() {
      const box = around(this.at);
      return !this.own && box && Math.abs(box.top + window.scrollY - this.spot) > 2;
    }

    /* Put the ring around it, and the card beside it. moved: it is another thing than before. */
    aim(moved = false) {
      const box = this.ready ? around(this.at) : null;
      this.ring.hidden = !box;
      if (box) {
        const pad = 5;
        Object.assign(this.ring.style, {
          left: `${box.left + window.scrollX - pad}px`,
          top: `${box.top + window.scrollY - pad}px`,
          width: `${box.right - box.left + 2 * pad}px`,
          height: `${box.bottom - box.top + 2 * pad}px`,
        });
      }
      this.card.classList.toggle("is-narrow", this.narrow);
      if (this.narrow) {
        this.card.style.left = this.card.style.top = "";
        return;
      }
      const now = this.card.getBoundingClientRect();
      const lost = now.right > window.innerWidth || now.bottom > window.innerHeight || now.top < 0;
      if (!moved && !lost && this.card.style.left && !(box && overlap(now, box))) return; // it may stay
      const [left, top] = this.beside(box || { left: 0, top: 0, right: 0, bottom: 0 }, now);
      Object.assign(this.card.style, { left: `${left}px`, top: `${top}px` });
    }

    /* A place for the card: on the side that has room, or in the corner where it hides the least; not over the
     * pictures if it can be helped, for most steps speak of them as well. */
    beside(box, { width, height }) {
      const most = { left: window.innerWidth - width - GAP, top: window.innerHeight - height - GAP };
      const inside = ([left, top]) => [
        Math.max(GAP, Math.min(left, most.left)),
        Math.max(GAP, Math.min(top, most.top)),
      ];
      const places = [
        [box.right + GAP, box.top],
        [box.left - width - GAP, box.top],
        [box.left, box.bottom + GAP],
        [box.left, box.top - height - GAP],
        [most.left, most.top],
        [GAP, most.top],
        [most.left, GAP],
        [GAP, GAP],
      ].map(inside);
      const pictures = around(PICTURES);
      const hidden = places.map(([left, top]) => {
        const card = { left, top, right: left + width, bottom: top + height };
        return 100 * overlap(card, box) + (pictures ? overlap(card, pictures) : 0);
      });
      return places[hidden.indexOf(Math.min(...hidden))];
    }

    /* ---- what the visitor does ---- */

    look() {
      if (!this.ready) return;
      const { task } = this.steps[this.index];
      if (task && !this.met && tests[task.kind](task.value)) {
        this.met = true;
        this.done.textContent = `✓ ${task.says}`;
        this.later = task.at;
      }
      if (this.later && !this.held) {
        this.at = this.later;
        this.later = "";
        this.own = false;
        this.bring();
      } else if (this.slipped()) {
        this.bring();
      }
      this.aim();
    }
  }

  /* ---- the ways in ---- */

  /* The buttons that start the tour: in the header and in the Learn tab. They stay the same ones, as the focus
   * comes back to them. */
  function call(tour, host) {
    const { place } = tour;
    if (!host.children.length) {
      for (const [name, press] of [["start", () => tour.start()], ["again", () => tour.start(0)]]) {
        const button = make("button", `vt-tour-${name}`);
        button.type = "button";
        button.addEventListener("click", press);
        host.append(button);
      }
    }
    const [start, again] = host.children;
    const words = place > 0 ? `Continue the tour (step ${place + 1} of ${tour.steps.length})` : "Take the tour";
    if (start.textContent !== words) start.textContent = words;
    if (!again.textContent) again.textContent = "Start over";
    again.hidden = place === 0;
    host.hidden = false;
  }

  function list(tour) {
    const steps = make("ol", "vt-tour-steps");
    steps.append(
      ...tour.steps.map(({ title, task }, index) => {
        const item = make("li");
        const button = make("button");
        button.type = "button";
        button.append(make("span", "vt-tour-number", String(index + 1)), make("span", "", title));
        if (task) button.append(make("span", "vt-tour-yours", "your turn"));
        button.addEventListener("click", () => tour.start(index));
        item.append(button);
        return item;
      }),
    );
    return steps;
  }

  let guide = null; // the one tour of the page, or null where there is none

  /* Its ways in, wherever they are now: tabs are drawn when they are first seen, headers with every model. */
  function ways() {
    for (const host of document.querySelectorAll(".vt-tour-call")) call(guide, host);
    document.querySelectorAll(".vt-tour-steps button").forEach((button, index) => {
      const here = index === guide.place && (guide.open || index > 0);
      if (here) button.setAttribute("aria-current", "step");
      else button.removeAttribute("aria-current");
    });
  }

  window.vtprune = Object.assign(window.vtprune || {}, {
    /* value: {steps, examples}; see ui/tour.py. */
    tour(element, { value }) {
      if (!value.steps.length) return;
      guide = new Tour(value);
      guide.changed = ways;
      ways();
      new MutationObserver(() => {
        if (one(".vt-tour-call:empty")) ways();
      }).observe(one(".vt-header").closest(".block"), { childList: true, subtree: true });
    },
    /* The list of its steps, a click on which goes there. */
    tourSteps(element) {
      const host = element.querySelector(".vt-tour");
      if (!guide) {
        host.replaceChildren(make("p", "vt-quiet", "The tour needs the recorded examples, which are not here."));
        return;
      }
      const about = "Ten short steps on the real page, from the picture to the broken count. Esc leaves at any time.";
      host.replaceChildren(make("p", "", about), make("span", "vt-tour-call"), list(guide));
      ways();
    },
  });
})();
