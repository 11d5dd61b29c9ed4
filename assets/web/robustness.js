/* Pictures that are damaged more and more, with both answers: a card a severity, the clean one first. The value is
 * made by ui/tabs/robustness.py. */
(() => {
  "use strict";

  const { make, radios, placed, pointing, SmallMap } = window.vtprune;

  const VIEWS = [
    ["damaged", "Damaged picture", "The picture as the model sees it"],
    ["chosen", "What is kept", "Kept patches in colour, dropped ones grey and hatched"],
  ];
  const SIDES = [["full", "All tokens"], ["pruned", "Pruned"]];

  class Robustness {
    constructor(element, props, watch) {
      this.props = props;
      this.palette = new window.vtprune.Palette(props.palette);
      this.host = element.querySelector(".vt-robustness");
      this.view = "damaged";
      this.cards = [];
      this.head = make("div", "vt-asked");
      this.views = radios("What the small pictures show", VIEWS, (name) => {
        this.view = name;
        this.draw();
      });
      this.views.inputs[this.view].checked = true;
      const bar = make("div", "vt-map-bar");
      bar.append(this.views.root);
      this.grid = make("div", "vt-cells");
      this.readout = make("p", "vt-readout");
      this.readout.setAttribute("aria-live", "polite");
      this.host.replaceChildren(this.head, bar, this.grid, this.readout);
      watch("value", () => this.show());
      new ResizeObserver(() => this.draw()).observe(this.grid);
      this.show();
    }

    /* Cards that are there already stay, so that nothing flickers. */
    show() {
      const value = (this.value = this.props.value);
      this.host.classList.toggle("is-empty", !value.rows.length);
      this.host.dataset.images = Math.min(value.images.length, 4);
      Object.assign(this, placed(value));
      const texts = value.rows.map((row) => JSON.stringify([row, value.images, value.evidence]));
      const stay = this.cards.filter(({ text }, index) => text === texts[index]);
      for (const { root, map } of this.cards.slice(stay.length)) {
        pointing.leave(map);
        root.remove();
      }
      this.cards = stay;
      for (let i = stay.length; i < value.rows.length; i++) {
        const card = { text: texts[i], row: value.rows[i], ...this.card(value.rows[i]) };
        this.cards.push(card);
        this.grid.append(card.root);
      }
      const { question, about, truth, outcome } = value;
      const parts = [make("p", "vt-quiet", `“${question}”, ${about}`)];
      if (truth) parts.push(make("p", "vt-quiet", `Right answer: ${truth}`));
      if (outcome) {
        const line = make("p");
        line.append(make("strong", "", outcome));
        parts.push(line);
      }
      this.head.replaceChildren(...parts);
      this.draw();
      this.tell();
    }

    card(row) {
      const title = row.severity ? `Severity ${row.severity}` : "Clean";
      const root = make("article", "vt-cell");
      root.dataset.severity = row.severity;
      const photos = row.files.map((file) => {
        const photo = new Image();
        photo.onload = () => this.draw();
        photo.src = file.url;
        return photo;
      });
      const self = this;
      const map = new SmallMap(
        {
          value: this.value, pictures: this.pictures, props: this.props, palette: this.palette, photos,
          get plain() {
            return self.view === "damaged";
          },
          tell: () => this.tell(),
        },
        { title, keep: row.keep, blended: row.blended },
      );
      root.append(make("h3", "", title), map.root);
      for (const [side, name] of SIDES) root.append(this.answer(name, row[side], row.severity));
      const evidence = row.evidence === null ? "" : ` · ${Math.round(100 * row.evidence)} % of the evidence`;
      root.append(make("p", "vt-quiet", `${row.tokens} tokens${evidence}`));
      return { root, map };
    }

    answer(name, { words, holds }, severity) {
      const box = make("div", "vt-held");
      const head = make("p", "vt-held-head");
      head.append(make("span", "", name));
      if (severity) {
        head.append(make("span", `vt-agreement is-${holds ? "same" : "different"}`, holds ? "✓ as clean" : "≠ not as clean"));
      }
      const said = make("p", "vt-said");
      words.forEach(([word, differs], index) => {
        if (index) said.append(" ");
        said.append(differs ? make("mark", "", word) : word);
      });
      if (!words.length) said.append("(no words)");
      box.append(head, said);
      return box;
    }

    draw() {
      for (const { map } of this.cards) map.draw();
    }

    /* At which severities the patch that is pointed at is kept. */
    tell() {
      const cursor = this.cards.length ? this.cards[0].map.pointing.cursor : null;
      if (cursor === null) {
        this.readout.textContent = this.cards.length ? "Point at a patch to mark it on all pictures; click to pin it." : "";
        return;
      }
      const { id, row, col } = this.patches[cursor];
      const kept = this.cards.filter(({ map }) => map.kept.has(id)).map(({ row: { severity } }) => severity || "clean");
      const where = kept.length ? `kept at severity ${kept.join(", ")}` : "kept at no severity";
      this.readout.textContent = `Patch ${id} · row ${row + 1}, column ${col + 1} · ${where.replace("severity clean", "clean")}`;
    }
  }

  window.vtprune = Object.assign(window.vtprune || {}, {
    robustness(element, props, watch) {
      new Robustness(element, props, watch);
    },
  });
})();
