/* The patch map: pictures with what was kept and dropped, drawn on canvas from the value that
 * ui/patchmap.py makes. One instance a component; no build step, no library. */
(() => {
  "use strict";

  const VIEWS = [
    ["kept", "Kept", "Kept patches in colour, dropped ones grey and hatched"],
    ["scores", "Scores", "How high the method scored each patch"],
    ["order", "Order", "Which patch the method would pick first, second, …"],
    ["picture", "Picture", "The picture alone"],
  ];

  const MANY = 40; // patches that one was blended with; lines to more would hide the picture

  const { make, swatch, ordinal, number, tokensFor, radios, rest, placed, pointing } = window.vtprune;

  class PatchMap {
    constructor(element, props, watch) {
      this.props = props;
      this.palette = new window.vtprune.Palette(props.palette);
      this.view = "kept";
      this.preview = null;
      this.pictures = [];
      this.build(element.querySelector(".vt-map"));
      watch("value", () => this.show());
      new ResizeObserver(() => this.draw()).observe(this.grid);
      this.show();
    }

    /* ---- the parts on the page ---- */

    build(host) {
      this.host = host;
      const bar = make("div", "vt-map-bar");
      const views = radios("What the map shows", VIEWS, (name) => this.choose(name));
      this.radios = views.inputs;
      this.stages = make("select", "vt-stage");
      this.stages.setAttribute("aria-label", "After which selection");
      this.stages.addEventListener("change", () => this.reach(Number(this.stages.value)));
      this.where = make("span", "vt-quiet");
      bar.append(views.root, this.stages, this.where);
      this.grid = make("div", "vt-map-grid");
      this.scrubber = new window.vtprune.Scrubber((selection) => this.reach(selection));
      this.legend = make("div", "vt-legend");
      this.readout = make("p", "vt-readout");
      this.readout.setAttribute("aria-live", "polite");
      host.replaceChildren(bar, this.grid, this.scrubber.root, this.legend, this.readout);
    }

    /* A new value: keep pictures that are already there, so that nothing flickers. */
    show() {
      const value = (this.value = this.props.value);
      this.preview = null;
      if (!value || !value.images.length) {
        this.grid.replaceChildren(make("p", "vt-empty", "Add a picture, ask a question, press Run."));
        pointing.leave(this);
        this.figures = [];
        this.pictures = [];
        this.host.classList.add("is-empty");
        return;
      }
      this.host.classList.remove("is-empty");
      this.host.dataset.images = Math.min(value.images.length, 4);
      const sources = value.images.map((image) => image.file.url).join("\n");
      if (sources !== this.sources || !this.figures.length) {
        this.sources = sources;
        this.figures = value.images.map((image, index) => this.figure(image, index));
        this.grid.replaceChildren(...this.figures.map((figure) => figure.root));
      }
      document.dispatchEvent(new CustomEvent("vtprune:map", { detail: this.props.name }));
      Object.assign(this, placed(value));
      pointing.join(this, value);
      const stages = value.stages.map((stage, index) => new Option(stage.label, index));
      this.stages.replaceChildren(...stages);
      this.stages.value = String(stages.length - 1);
      this.stages.hidden = stages.length < 2 || value.layers.length > 0; // then the scrubber says it all
      this.where.textContent = stages.length === 1 ? `chosen ${value.stages[0].label}` : "";
      this.reach(stages.length - 1);
      this.scrubber.show(value);
    }

    /* Show what is left after a selection; before the first one (-1) that is everything. */
    reach(selection) {
      this.selection = selection;
      this.draw();
    }

    figure(image, index) {
      const root = make("figure", "vt-figure");
      const canvas = make("canvas", "vt-canvas");
      canvas.tabIndex = 0;
      canvas.dataset.image = index;
      canvas.setAttribute("role", "img");
      canvas.style.aspectRatio = `${image.width} / ${image.height}`;
      root.style.setProperty("--ratio", image.width / image.height);
      const caption = make("figcaption");
      root.append(canvas, caption);
      const picture = new Image();
      picture.onload = () => this.draw();
      picture.onerror = () => (caption.textContent = `${image.name} could not be shown.`);
      picture.src = image.file.url;
      pointing.listen(canvas, this, () => this.pictures[index]);
      return { root, canvas, caption, picture };
    }

    /* ---- what is known of each patch ---- */

    stage() {
      return this.value.stages[this.selection];
    }

    /* The set that is shown: of the chosen stage, or the first `preview` of its order. */
    kept() {
      const stage = this.stage();
      if (!stage) return new Set(this.patches.map((patch) => patch.id));
      return new Set(this.preview === null ? stage.keep : stage.order.slice(0, this.preview));
    }

    ranks() {
      const stage = this.stage();
      const ranks = new Map();
      if (stage && stage.order) stage.order.forEach((id, rank) => ranks.set(id, rank));
      return ranks;
    }

    available(name) {
      const stage = this.stage();
      if (name === "scores") return Boolean(stage && stage.scores && stage.scores.some((s) => s !== null));
      if (name === "order") return Boolean(stage && stage.order && stage.order.length > 1);
      return true;
    }

    /* ---- the budget slider: nested methods are replayed here, without asking the server ---- */

    budget(percent, request) {
      const value = this.value;
      if (!value || !value.stages.length) return "";
      const stage = value.stages[0];
      const count = tokensFor(percent, value.total, value.pictures);
      const whole = stage.order && stage.order.length === value.total;
      const same = request === JSON.stringify(value.request);
      const one = value.stages.length === 1 && stage.layer === null;
      const can = same && one && value.nested && whole;
      this.preview = can && count !== stage.keep.length ? count : null;
      this.scrubber.replay(this.preview);
      this.draw();
      if (this.preview !== null) return "The map shows this budget. Run gives its answer.";
      return can || (same && percent === value.percent) ? "" : "Run shows this budget.";
    }

    /* ---- drawing ---- */

    choose(name) {
      this.view = name;
      this.draw();
    }

    draw() {
      if (!this.figures || !this.figures.length) return;
      for (const [name] of VIEWS) {
        const missing = `This method gives no ${name === "order" ? "order" : "scores"}.`;
        const reason = this.selection < 0 && this.value.stages.length ? "Nothing is chosen yet at this point." : missing;
        rest(this.radios[name], this.available(name) ? "" : reason);
      }
      this.shown = this.available(this.view) ? this.view : "kept";
      this.radios[this.shown].checked = true;
      this.keptNow = this.kept();
      const past = this.preview === null ? this.value.stages.slice(0, this.selection + 1) : [];
      this.blend = new window.vtprune.Blend(past);
      this.rank = this.ranks();
      this.limits = this.range();
      this.figures.forEach((figure, index) => this.paint(figure, index));
      this.explain();
    }

    range() {
      const stage = this.stage();
      if (this.shown === "order") return [0, Math.max(1, stage.order.length - 1)];
      if (this.shown !== "scores") return null;
      const scores = stage.scores.filter((score) => score !== null);
      return [Math.min(...scores), Math.max(...scores)];
    }

    /* Share of the palette for a patch in the heat views, or null. */
    heat(id) {
      const [low, high] = this.limits;
      if (this.shown === "order") return this.rank.has(id) ? 1 - this.rank.get(id) / high : null;
      const score = this.stage().scores[id];
      if (score === null) return null;
      return high > low ? (score - low) / (high - low) : 0.5;
    }

    /* Whether a patch is gone, but part of a kept one. */
    absorbed(id) {
      return this.blend.alive.has(id) && !this.keptNow.has(id);
    }

    paint({ canvas, caption, picture }, index) {
      const image = this.value.images[index];
      const own = this.pictures[index];
      const count = own.filter((patch) => this.keptNow.has(patch.id)).length;
      const blended = own.filter((patch) => this.absorbed(patch.id)).length;
      const text = this.describe(count, own.length, blended);
      caption.replaceChildren(make("span", "vt-name", image.name), make("span", "", text));
      const keys = own.length ? `: ${text}. Arrow keys move from patch to patch, Enter pins` : "";
      canvas.setAttribute("aria-label", `${image.name}${keys}.`);
      if (!picture.complete || !picture.naturalWidth || !canvas.clientWidth) return;
      const scale = window.vtprune.fit(canvas, image);
      const around = new Set(this.cursor === null ? [] : this.blend.around(this.cursor));
      const group = own.filter((patch) => around.has(patch.id));
      const cursor = own.filter((patch) => patch.id === this.cursor);
      window.vtprune.paint(canvas, {
        picture,
        patches: own,
        veil: this.props.veil,
        look: this.props.look,
        palette: this.palette,
        plain: this.shown === "picture" || !own.length, // without a run nobody knows what the model sees
        heat: this.limits ? (patch) => this.heat(patch.id) : null,
        kept: (id) => this.keptNow.has(id),
        merged: (patch) => this.absorbed(patch.id),
        outlined: this.value.stages.length > 0,
        evidence: this.value.evidence.filter((entry) => entry[0] === index).map((entry) => entry.slice(1)),
        group,
        links: group.length > MANY ? [] : cursor.flatMap((from) => group.map((patch) => [from, patch])),
        cursor,
        scale,
      });
    }

    describe(kept, all, blended) {
      if (!all) return "";
      if (!this.stage()) return `all ${all} patches kept`;
      if (blended && kept + blended === all) return `${all} patches blended into ${kept}`;
      return `${kept} of ${all} patches kept${blended ? `, ${blended} blended into them` : ""}`;
    }

    explain() {
      const items = [];
      const ran = this.value.stages.length > 0;
      const own = this.patches;
      if (this.limits && this.shown === "scores") {
        const [low, high] = this.limits;
        items.push(this.bar(number(low), number((low + high) / 2), number(high), "score, the higher the sooner kept"));
      } else if (this.limits) {
        items.push(this.bar("last", "", "first", "order of choice"));
      } else if (this.shown === "kept" && ran) {
        items.push(swatch("vt-key-kept", "kept"));
        if (own.some((patch) => this.absorbed(patch.id))) items.push(swatch("vt-key-merged", "blended into a kept one"));
        if (own.some((patch) => !this.keptNow.has(patch.id) && !this.absorbed(patch.id))) items.push(swatch("vt-key-dropped", "dropped"));
      }
      if (this.limits) items.push(swatch("vt-key-line", "outlined: kept"));
      if (this.blend.any && this.shown !== "picture") items.push(swatch("vt-key-linked", "blended with the patch you point at"));
      if (ran && this.shown !== "picture" && this.pictures.some((patches) => this.covered(patches) < 0.99)) {
        items.push(swatch("vt-key-unseen", "outside the model's view"));
      }
      if (this.value.evidence.length) items.push(swatch("vt-key-evidence", "what decides the answer"));
      this.legend.replaceChildren(...items);
      this.tell();
    }

    covered(patches) {
      return patches.reduce((sum, { box }) => sum + (box[2] - box[0]) * (box[3] - box[1]), 0);
    }

    bar(low, middle, high, text) {
      const wrap = make("span", "vt-key");
      const scale = make("span", "vt-scale");
      const colours = make("span", "vt-colours");
      colours.style.background = this.palette.css;
      const ends = make("span", "vt-ends");
      ends.append(make("span", "", low), make("span", "", middle), make("span", "", high));
      scale.append(colours, ends);
      wrap.append(scale, make("span", "", text));
      return wrap;
    }

    /* ---- pointing at a patch ---- */

    get cursor() {
      return this.pointing ? this.pointing.cursor : null;
    }

    /* Somebody pointed at another patch, here or on a map that is linked to this one; see pointing.js. */
    pointed() {
      this.figures.forEach((figure, index) => this.paint(figure, index));
      this.tell();
    }

    tell() {
      if (this.cursor === null) {
        this.readout.textContent = this.value.stages.length ? "Point at a patch to read its number, score and rank." : "";
        return;
      }
      const stage = this.stage();
      const { id, row, col } = this.patches[this.cursor];
      const parts = [`Patch ${id}`, `row ${row + 1}, column ${col + 1}`];
      if (stage) {
        const blended = this.blend.words(id);
        if (this.keptNow.has(id)) parts.push("kept");
        else if (!this.blend.went.has(id)) parts.push(this.fate(id));
        parts.push(...blended);
        const score = stage.scores && stage.scores[id];
        if (score !== null && score !== undefined) parts.push(`score ${number(score)}`);
        if (this.rank.has(id)) parts.push(`${ordinal(this.rank.get(id) + 1)} of ${stage.order.length} in order of choice`);
      }
      this.readout.textContent = parts.join(" · ") + (this.pointing.pinned ? " · pinned" : "");
    }

    fate(id) {
      if (this.value.stages.length < 2) return "dropped";
      const where = this.value.stages.find((stage) => !stage.keep.includes(id));
      return where ? `dropped ${where.label}` : "dropped";
    }
  }

  window.vtprune = Object.assign(window.vtprune || {}, {
    maps: {},
    patchmap(element, props, watch) {
      window.vtprune.maps[props.name] = new PatchMap(element, props, watch);
    },
  });
})();
