/* The methods' cards: what a method does, when it fails, its formula, and what it kept of one recorded example.
 * The value is made by ui/cards.py; filtering and searching happen here. */
(() => {
  "use strict";

  const { make, radios, placed, SmallMap } = window.vtprune;

  /* Everything a card says, for the search. */
  const words = ({ name, title, what, fails, how, ours, needs, tags, year }) =>
    [name, title, what, fails, ...how, ours, needs, ...tags, year].join(" ").toLowerCase();

  class Cards {
    constructor(element, props, trigger) {
      this.props = props;
      this.trigger = trigger;
      this.palette = new window.vtprune.Palette(props.palette);
      this.host = element.querySelector(".vt-cards");
      this.value = props.value;
      this.photos = this.value.images.map(({ file }) => {
        const photo = new Image();
        photo.onload = () => this.draw();
        photo.src = file.url;
        return photo;
      });
      Object.assign(this, placed(this.value));
      this.build();
      new ResizeObserver(() => this.draw()).observe(this.grid);
      this.filter();
      this.tell();
    }

    build() {
      const { groups, cards, about } = this.value;
      this.group = groups[0][0];
      const where = radios(
        "Where the method acts",
        groups.map(([name, label, title]) => [name, label, title]),
        (name) => {
          this.group = name;
          this.filter();
        },
      );
      where.inputs[this.group].checked = true;
      this.search = make("input", "vt-search");
      this.search.type = "search";
      this.search.placeholder = "Search the cards";
      this.search.setAttribute("aria-label", "Search the cards");
      this.search.addEventListener("input", () => this.filter());
      const bar = make("div", "vt-map-bar");
      bar.append(where.root, this.search);
      this.found = make("p", "vt-quiet");
      this.found.setAttribute("role", "status");
      this.readout = make("p", "vt-readout");
      this.readout.setAttribute("aria-live", "polite");
      this.grid = make("div", "vt-card-grid");
      this.cards = cards.map((card) => ({ card, words: words(card), ...this.card(card) }));
      this.grid.append(...this.cards.map(({ root }) => root));
      this.host.replaceChildren(make("p", "vt-cards-about", about), bar, this.found, this.readout, this.grid);
    }

    /* ---- one card ---- */

    card(card) {
      const root = make("article", "vt-method-card");
      root.dataset.method = card.name;
      const { shown } = card;
      const map = shown && !shown.reason ? new SmallMap(this, { ...shown, title: card.title }) : null;
      const side = make("div", "vt-card-side");
      if (map) side.append(map.root, this.outcome(shown));
      else side.append(make("p", "vt-quiet", shown ? shown.reason : "No picture was recorded of this method."));
      const head = make("div", "vt-card-head");
      head.append(make("h3", "", card.title), this.tags(card));
      const body = make("div", "vt-card-body");
      const fails = make("p");
      fails.append(make("b", "", "Where it falls short: "), card.fails);
      body.append(make("p", "", card.what), fails, this.details(card), this.button(card));
      root.append(side, head, body);
      return { root, map };
    }

    tags({ tags, paper, year, title }) {
      const row = make("div", "vt-tags");
      row.append(...tags.map((tag) => make("span", "", tag)));
      if (paper) {
        const link = make("a", "", `paper, ${year}`);
        link.href = paper;
        link.target = "_blank";
        link.rel = "noopener";
        link.setAttribute("aria-label", `paper, ${year}, of ${title}`);
        row.append(link);
      }
      return row;
    }

    /* What came of it on the example. */
    outcome({ caption, answer, right, evidence }) {
      const kept = make("p", "vt-card-kept", caption);
      const said = make("p", `vt-card-said is-${right ? "same" : "different"}`);
      const share = evidence === null ? "" : `, ${Math.round(100 * evidence)} % of what decides it kept`;
      said.append(make("b", "", `${right ? "✓" : "≠"} Says ${answer || "nothing"}`), share);
      const outcome = make("div", "vt-card-outcome");
      outcome.append(kept, said);
      return outcome;
    }

    details({ how, ours, needs }) {
      const details = make("details");
      const more = make("div", "vt-card-more");
      const open = ours ? [`Where the paper leaves it open: ${ours}`] : [];
      more.append(...[...how, needs, ...open].map((paragraph) => make("p", "", paragraph)));
      details.append(make("summary", "", "How it works, with its formula"), more);
      return details;
    }

    button({ name, title }) {
      const button = make("button", "vt-open", "Try it");
      button.type = "button";
      button.setAttribute("aria-label", `Try it: ${title}`);
      button.addEventListener("click", () => this.trigger("select", { method: name }));
      return button;
    }

    /* ---- all cards ---- */

    filter() {
      const sought = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      for (const { root, card, words } of this.cards) {
        const here = this.group === "all" || card.groups.includes(this.group);
        root.hidden = !here || !sought.every((word) => words.includes(word));
        if (!root.hidden) count += 1;
      }
      const about = this.value.groups.find(([name]) => name === this.group)[2];
      this.found.textContent = `${about} ${count} of ${this.cards.length} methods.`.trim();
      this.draw();
    }

    draw() {
      for (const { map, root } of this.cards || []) if (map && !root.hidden) map.draw();
    }

    /* Who kept the patch that is pointed at; the maps are linked. */
    tell() {
      const maps = this.cards ? this.cards.map(({ map }) => map).filter(Boolean) : [];
      const cursor = maps.length ? maps[0].pointing.cursor : null;
      this.readout.hidden = !maps.length;
      if (cursor === null) {
        this.readout.textContent = "Point at a patch to mark it in all pictures; click to pin it.";
        return;
      }
      const kept = maps.filter((map) => map.kept.has(cursor)).length;
      const { row, col } = this.patches[cursor];
      const where = `Patch ${cursor} · row ${row + 1}, column ${col + 1}`;
      this.readout.textContent = `${where} · kept by ${kept} of ${maps.length}${maps[0].pointing.pinned ? " · pinned" : ""}`;
    }
  }

  window.vtprune = Object.assign(window.vtprune || {}, {
    cards(element, props, watch, trigger) {
      new Cards(element, props, trigger);
    },
    /* Try it was pressed: show Run, and where it is pressed. */
    taken() {
      window.vtprune.tab("run");
      const button = document.getElementById("vt-run");
      button.scrollIntoView({ block: "center" });
      button.focus({ preventScroll: true });
    },
  });
})();
