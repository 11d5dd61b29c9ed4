/* Several methods side by side: a small map of each, linked with the others and with the large one, its answer
 * and what it cost; sorted here, without the server. The value is made by ui/tabs/compare.py. */
(() => {
  "use strict";

  const { make, number, radios, rest, placed, pointing } = window.vtprune;

  /* name, label, and the parts of a cell that count, the smallest first. */
  const SORTS = [
    ["chosen", "As chosen", () => []],
    ["agreement", "Agreement", ({ same, kl }) => [same ? 0 : 1, kl]],
    ["evidence", "Evidence", ({ evidence }) => [evidence === null ? 1 : 0, -evidence]],
    ["time", "Time", ({ first }) => [first === null ? 1 : 0, first]],
  ];

  const MISSING = {
    evidence: "What decides the answer is known of recorded examples only.",
    time: "No times were measured.",
  };

  const before = (a, b) => {
    for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return a[i] - b[i];
    return 0;
  };

  /* What one method kept, on canvases as many as there are pictures. */
  class SmallMap {
    constructor(owner, cell) {
      this.owner = owner;
      this.cell = cell;
      this.kept = new Set(cell.keep);
      this.root = make("div", "vt-small-maps");
      this.root.style.setProperty("--across", [1, 1, 2, 3, 2][Math.min(owner.value.images.length, 4)]);
      this.canvases = owner.value.images.map((image, index) => this.canvas(image, index));
      this.root.append(...this.canvases);
      pointing.join(this, owner.value);
    }

    canvas(image, index) {
      const canvas = make("canvas", "vt-canvas");
      const own = this.owner.pictures[index];
      const count = own.filter(({ id }) => this.kept.has(id)).length;
      canvas.tabIndex = 0;
      canvas.setAttribute("role", "img");
      canvas.setAttribute(
        "aria-label",
        `${this.cell.title}, ${image.name}: ${count} of ${own.length} patches ${this.cell.blended ? "stand for all" : "kept"}. ` +
          "Arrow keys move from patch to patch on all maps, Enter pins.",
      );
      canvas.style.aspectRatio = `${image.width} / ${image.height}`;
      pointing.listen(canvas, this, () => own);
      return canvas;
    }

    pointed() {
      this.draw();
      this.owner.tell();
    }

    /* An outline as wide as small patches can bear. */
    line(own, width) {
      const side = own.length ? (own[0].box[2] - own[0].box[0]) * width : 0;
      if (side < 6) return 0;
      return side < 12 ? 1 : 2;
    }

    draw() {
      const { value, photos, pictures, props, palette } = this.owner;
      this.canvases.forEach((canvas, index) => {
        const picture = photos[index];
        if (!picture.complete || !picture.naturalWidth || !canvas.clientWidth) return;
        const scale = window.vtprune.fit(canvas, value.images[index]);
        const own = pictures[index];
        window.vtprune.paint(canvas, {
          picture, palette, scale,
          patches: own,
          veil: props.veil,
          look: props.look,
          plain: Boolean(this.owner.plain),
          heat: null,
          kept: (id) => this.kept.has(id),
          merged: ({ id }) => Boolean(this.cell.blended) && this.cell.blended[id] >= 0 && !this.kept.has(id),
          outlined: true,
          line: this.line(own, canvas.width),
          evidence: value.evidence.filter((entry) => entry[0] === index).map((entry) => entry.slice(1)),
          group: [],
          cursor: own.filter(({ id }) => id === this.pointing.cursor),
        });
      });
    }
  }

  class Comparison {
    constructor(element, props, watch, trigger) {
      this.props = props;
      this.trigger = trigger;
      this.palette = new window.vtprune.Palette(props.palette);
      this.host = element.querySelector(".vt-comparison");
      this.photos = [];
      this.cells = new Map(); // method -> {text, root, map}
      this.head = make("div", "vt-asked");
      this.sort = "chosen";
      this.sorting = radios(
        "Sort the methods by",
        SORTS.map(([name, label]) => [name, label]),
        (name) => {
          this.sort = name;
          this.order();
        },
      );
      this.sorting.inputs.chosen.checked = true;
      const bar = make("div", "vt-map-bar");
      bar.append(make("span", "vt-quiet", "Sort by"), this.sorting.root);
      this.grid = make("div", "vt-cells");
      this.readout = make("p", "vt-readout");
      this.readout.setAttribute("aria-live", "polite");
      this.host.replaceChildren(this.head, bar, this.readout, this.grid);
      watch("value", () => this.show());
      new ResizeObserver(() => this.draw()).observe(this.grid);
      this.show();
    }

    show() {
      const value = (this.value = this.props.value);
      const cells = value.cells;
      this.host.classList.toggle("is-empty", !cells.length);
      this.host.classList.toggle("is-several", value.images.length > 1);
      const sources = value.images.map(({ file }) => file.url).join("\n") + value.total;
      if (sources !== this.sources) {
        this.sources = sources;
        this.forget([...this.cells.keys()]);
        this.photos = value.images.map(({ file }) => {
          const photo = new Image();
          photo.onload = () => this.draw();
          photo.src = file.url;
          return photo;
        });
      }
      Object.assign(this, placed(value));
      this.forget([...this.cells.keys()].filter((method) => !cells.some((cell) => cell.method === method)));
      for (const cell of cells) {
        const text = JSON.stringify([cell, value.evidence]);
        const old = this.cells.get(cell.method);
        if (old && old.text === text) continue; // nothing flickers
        if (old) this.forget([cell.method]);
        this.cells.set(cell.method, { text, cell, ...this.card(cell) });
      }
      for (const [name, , keys] of SORTS) {
        const possible = cells.some((cell) => !cell.reason && keys(cell)[0] !== 1);
        const always = name === "chosen" || name === "agreement";
        rest(this.sorting.inputs[name], always || possible ? "" : MISSING[name]);
      }
      this.tellQuestion();
      this.order();
      this.draw();
      this.tell();
    }

    forget(methods) {
      for (const method of methods) {
        const { root, map } = this.cells.get(method);
        if (map) pointing.leave(map);
        root.remove();
        this.cells.delete(method);
      }
    }

    tellQuestion() {
      const { question, full, first, total, percent, truth, model } = this.value;
      const line = make("p");
      line.append(make("strong", "", full || "(no words)"));
      line.append(` with all ${total} tokens${first ? `, first token after ${first}` : ""}`);
      const parts = [make("p", "vt-quiet", `“${question}”, keeping ${percent} %${model ? `, with ${model}` : ""}`)];
      if (total) parts.push(line);
      if (truth) parts.push(make("p", "vt-quiet", `Right answer: ${truth}`));
      this.head.replaceChildren(...parts);
    }

    /* ---- one cell ---- */

    card(cell) {
      const root = make("article", "vt-cell");
      root.dataset.method = cell.method;
      root.append(make("h3", "", cell.title));
      if (cell.reason) {
        root.classList.add("is-missing");
        root.append(make("p", "vt-error", cell.reason));
        return { root, map: null };
      }
      const map = new SmallMap(this, cell);
      const answer = make("p", "vt-said");
      cell.words.forEach(([word, differs], index) => {
        if (index) answer.append(" ");
        answer.append(differs ? make("mark", "", word) : word);
      });
      if (!cell.words.length) answer.append("(no words)");
      const agreement = make("p", `vt-agreement is-${cell.same ? "same" : "different"}`);
      agreement.textContent = `${cell.same ? "✓" : "≠"} ${cell.agreement}`;
      const facts = make("dl", "vt-cell-facts");
      const fact = (name, text, share) => {
        const value = make("dd", "", text);
        if (share !== undefined) {
          const bar = make("span", "vt-meter");
          bar.append(make("i"));
          bar.firstChild.style.width = `${100 * share}%`;
          value.append(bar);
        }
        facts.append(make("dt", "", name), value);
      };
      fact("Kept", cell.tokens);
      if (cell.evidence !== null) fact("Evidence kept", `${Math.round(100 * cell.evidence)} %`, cell.evidence);
      else if (cell.blended) fact("Evidence kept", "blended, so no share");
      fact("Divergence (KL)", `${cell.kl < 0.001 ? "< 0.001" : number(cell.kl)} nats`);
      if (cell.first !== null) {
        fact("Selecting", cell.select);
        fact("First token", `${cell.took}, ${cell.speed}`);
      }
      const open = make("button", "vt-open", "Open this run");
      open.type = "button";
      open.setAttribute("aria-label", `Open the run of ${cell.title}`);
      root.append(map.root, answer, agreement, facts, open);
      root.addEventListener("click", (event) => {
        if (!event.target.closest("canvas")) this.trigger("select", { method: cell.method }); // there it pins
      });
      return { root, map };
    }

    /* ---- all cells ---- */

    order() {
      const keys = SORTS.find(([name]) => name === this.sort)[2];
      const rank = ({ cell }) => (cell.reason ? null : keys(cell));
      const chosen = this.value.cells.map(({ method }) => this.cells.get(method));
      const sorted = chosen
        .map((entry, index) => ({ entry, rank: rank(entry), index }))
        .sort((a, b) => !a.rank - !b.rank || before(a.rank || [], b.rank || []) || a.index - b.index);
      this.grid.append(...sorted.map(({ entry }) => entry.root));
    }

    draw() {
      for (const { map } of this.cells.values()) if (map) map.draw();
    }

    /* Who kept the patch that is pointed at. */
    tell() {
      const maps = this.value.cells.map(({ method }) => this.cells.get(method).map).filter(Boolean);
      const cursor = maps.length ? maps[0].pointing.cursor : null;
      if (cursor === null) {
        this.readout.textContent = maps.length ? "Point at a patch to mark it on all maps; click to pin it." : "";
        return;
      }
      const { id, row, col } = this.patches[cursor];
      const kept = maps.filter((map) => map.kept.has(id)).map(({ cell }) => cell.title);
      const who = kept.length ? `kept by ${kept.length} of ${maps.length}: ${kept.join(", ")}` : "kept by none";
      const pin = maps[0].pointing.pinned ? " · pinned" : "";
      this.readout.textContent = `Patch ${id} · row ${row + 1}, column ${col + 1} · ${who}${pin}`;
    }
  }

  window.vtprune = Object.assign(window.vtprune || {}, {
    SmallMap,
    comparison(element, props, watch, trigger) {
      new Comparison(element, props, watch, trigger);
    },
  });
})();
