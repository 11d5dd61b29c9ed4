/* Painting: a person says which patches are kept, and draws boxes around what matters. Nothing is sent while they
 * do; an event takes along {keep: ids, evidence: [[image, x0, y0, x1, y1 in shares]], total}. The value is made by
 * ui/tabs/paint.py. */
(() => {
  "use strict";

  const { make, swatch, radios, placed, pointing, say, PatchSet, boxes: { area, around } } = window.vtprune;

  const TOOLS = [
    ["keep-brush", "Keep brush", "Keeps the patches it is drawn over"],
    ["erase", "Erase", "Drops the patches it is drawn over"],
    ["keep-box", "Box keep", "Keeps all patches that a box touches"],
    ["drop-box", "Box drop", "Drops all patches that a box touches"],
    ["evidence-box", "Evidence box", "A box around what matters: how much of it is kept is counted"],
  ];
  const KEYS =
    "Arrow keys move from patch to patch, with Shift the brush paints on the way; Space keeps or drops the patch, " +
    "or sets a corner of a box; Enter asks.";
  const SMALL = 0.01; // of a side: a box that is no box, but a click

  const clamp = (share) => Math.min(1, Math.max(0, share));
  const percent = (share) => `${share > 0 && share < 0.01 ? (100 * share).toFixed(1) : Math.round(100 * share)} %`;

  class Painting {
    constructor(element, props, watch) {
      this.props = props;
      this.palette = new window.vtprune.Palette(props.palette);
      this.host = element.querySelector(".vt-painting");
      this.tool = "keep-brush";
      this.stroke = this.box = this.figures = this.question = null; // box: the one that is being drawn
      this.build();
      watch("value", () => this.show());
      // a tab that nobody looks at has no width, and draws nothing
      new ResizeObserver(() => this.draw()).observe(this.host);
      this.show();
    }

    build() {
      this.tools = radios("What the pointer does", TOOLS, (name) => {
        this.tool = name;
        this.box = null;
        this.draw();
      });
      this.tools.inputs[this.tool].checked = true;
      const action = (label, title, work) => {
        const button = make("button", "vt-open", label);
        button.type = "button";
        button.title = title;
        button.addEventListener("click", work);
        return button;
      };
      const actions = make("div", "vt-actions");
      const changing = (work) => () => {
        work();
        this.draw();
      };
      this.undo = action("Undo", "Take the last change back (Ctrl+Z)", changing(() => this.set.back()));
      this.free = action("No evidence box", "Take the evidence boxes away", () => this.weigh([]));
      actions.append(
        action("All", "Keep every patch", changing(() => this.set.all())),
        action("Clear", "Keep nothing", changing(() => this.set.change([]))),
        action("Invert", "Keep what is dropped, drop what is kept", changing(() => this.set.invert())),
        this.undo,
        this.free,
      );
      const bar = make("div", "vt-map-bar");
      bar.append(this.tools.root, actions);
      this.count = make("p", "vt-alive vt-painted-count");
      this.grid = make("div", "vt-map-grid");
      this.legend = make("div", "vt-legend");
      this.readout = make("p", "vt-readout");
      this.readout.setAttribute("aria-live", "polite");
      this.host.replaceChildren(bar, this.count, this.grid, this.legend, this.readout);
    }

    /* Other pictures, or other patches: what was painted belongs to them no more. */
    show() {
      const value = (this.value = this.props.value);
      const key = JSON.stringify([value.images.map(({ file }) => file.url), value.segments]);
      this.question = this.question === null || key !== this.key ? value.question : this.question;
      if (key !== this.key) {
        this.key = key;
        this.figures = null;
        this.grid.replaceChildren();
      }
      this.host.classList.toggle("is-empty", !value.total);
      if (!value.total) {
        pointing.leave(this);
        const words = value.images.length ? "These pictures cannot be cut into patches." : "Add a picture to paint on.";
        this.grid.replaceChildren(make("p", "vt-empty", words));
        return;
      }
      Object.assign(this, placed(value));
      pointing.join(this, value);
      this.draw();
    }

    /* For the first time in sight: begin with what the Run tab shows of these pictures. */
    open() {
      const { images } = this.value;
      const main = window.vtprune.maps.main && window.vtprune.maps.main.value;
      const urls = (value) => JSON.stringify([value.total, ...value.images.map(({ file }) => file.url)]);
      const last = main && urls(main) === urls(this.value) && main.stages[main.stages.length - 1];
      this.set = new PatchSet(this, images.map(({ of }) => of), last ? last.keep : []);
      this.set.boxes = this.known();
      this.drawn = false; // the evidence is not a person's own yet
      this.host.dataset.images = Math.min(images.length, 4);
      this.figures = images.map((image, index) => this.figure(image, index));
      this.grid.replaceChildren(...this.figures.map(({ root }) => root));
    }

    known() {
      return (this.value.known[this.question] || []).map((box) => [...box]);
    }

    /* Another question: other things decide it, where that is known. */
    asked(question) {
      this.question = question;
      if (!this.figures || this.drawn) return;
      this.set.boxes = this.known();
      this.draw();
    }

    figure(image, index) {
      const root = make("figure", "vt-figure");
      const canvas = make("canvas", "vt-canvas vt-paintable");
      canvas.tabIndex = 0;
      canvas.dataset.image = index;
      canvas.setAttribute("role", "application");
      canvas.style.aspectRatio = `${image.width} / ${image.height}`;
      root.style.setProperty("--ratio", image.width / image.height);
      const caption = make("figcaption");
      root.append(canvas, caption);
      const picture = new Image();
      picture.onload = () => this.draw();
      picture.src = image.file.url;
      canvas.addEventListener("pointerdown", (event) => this.down(event, index));
      canvas.addEventListener("pointermove", (event) => this.move(event, index));
      canvas.addEventListener("pointerup", (event) => this.up(event, index));
      canvas.addEventListener("pointercancel", () => this.cancel());
      canvas.addEventListener("pointerleave", () => this.pointing && this.pointing.hover(null));
      canvas.addEventListener("keydown", (event) => this.press(event, index) && event.preventDefault());
      return { root, canvas, caption, picture };
    }

    /* A person says what matters. */
    weigh(boxes) {
      this.drawn = true;
      this.set.boxes = boxes;
      this.draw();
    }

    /* What is painted, each evidence box once for its picture. */
    painted() {
      const { images, total } = this.value;
      const first = (map) => images.findIndex(({ of }) => of === images[map].of) === map;
      const evidence = this.set.boxes.filter(([map]) => first(map)).map(([map, ...box]) => [images[map].of, ...box]);
      return { keep: this.set.sorted, evidence, total };
    }

    /* The server has a set: of a method, or the smallest so far. */
    give({ keep, work }) {
      if (!this.figures) return;
      this.set.give(keep, work);
      this.draw();
    }

    /* Why this cannot be asked, or null. */
    problem() {
      if (!this.figures) return this.value.images.length ? null : "Add a picture first.";
      return this.set.problem();
    }

    /* ---- pointer and keys ---- */

    down(event, index) {
      if (!event.isPrimary || event.button !== 0) return;
      const { canvas } = this.figures[index];
      const where = pointing.place(canvas, event);
      canvas.setPointerCapture(event.pointerId);
      this.pointing.pinned = false;
      if (this.tool.endsWith("-box")) {
        this.box = { index, from: where, to: where };
        this.draw();
        return;
      }
      this.set.remember();
      this.stroke = { index, at: where, on: this.tool === "keep-brush" };
      this.set.brush(index, where, where, this.stroke.on);
      this.draw();
    }

    move(event, index) {
      const where = pointing.place(this.figures[index].canvas, event);
      const found = this.pictures[index].find((patch) => pointing.holds(patch, where));
      if (this.stroke) {
        this.set.brush(index, this.stroke.at, where, this.stroke.on);
        this.stroke.at = where;
        this.pointing.cursor = found ? found.id : null;
        this.pointing.point(this.pointing.cursor);
      } else if (this.box && !this.box.keys) {
        this.box.to = where;
        this.draw();
      } else {
        this.pointing.hover(found ? found.id : null);
      }
    }

    up(event, index) {
      if (this.stroke) {
        this.stroke = null;
        this.draw();
      } else if (this.box && !this.box.keys && this.box.index === index) {
        this.close();
      }
    }

    cancel() {
      if (this.stroke) this.set.back();
      this.stroke = this.box = null;
      this.draw();
    }

    /* The box that is being drawn, inside the picture. */
    drawing() {
      const { from, to } = this.box;
      return around([[...from, ...from], [...to, ...to]]).map(clamp);
    }

    close() {
      const { index } = this.box;
      let box = this.drawing();
      const patches = this.set.touched(index, box);
      this.box = null;
      if (this.tool !== "evidence-box") {
        this.set.remember();
        this.set.put(patches, this.tool === "keep-box");
        this.draw();
        return;
      }
      const small = box[2] - box[0] < SMALL || box[3] - box[1] < SMALL;
      if (small && patches.length) box = around(patches.map((patch) => patch.box)).map(clamp);
      const mine = this.drawn ? this.set.boxes : []; // the first one of a person's own takes the place of what was known
      const { images } = this.value;
      const beside = images.flatMap(({ of }, map) => (of === images[index].of ? [[map, ...box]] : []));
      if (area(box)) this.weigh([...mine, ...beside]); // on every map of the picture
      else this.draw();
    }

    press(event, index) {
      const own = this.pictures[index];
      const { key, shiftKey, ctrlKey, metaKey } = event;
      if ((ctrlKey || metaKey) && key.toLowerCase() === "z") {
        this.set.back();
        this.draw();
      } else if (key === "Enter") {
        window.vtprune.press("vt-paint-start");
      } else if (key === " ") {
        this.toggle(own, index);
      } else if (key === "Escape") {
        this.box = null;
        this.pointing.key(key, own);
      } else if (key.startsWith("Arrow") && this.pointing.key(key, own)) {
        const here = this.patches[this.pointing.cursor];
        if (this.box) this.box.to = this.middle(here);
        if (shiftKey && !this.tool.endsWith("-box")) {
          this.set.remember();
          this.set.put([here], this.tool === "keep-brush");
          this.draw();
        }
        this.draw();
      } else {
        return false;
      }
      return true;
    }

    middle({ box }) {
      return [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];
    }

    toggle(own, index) {
      const here = own.find(({ id }) => id === this.pointing.cursor) || own[0];
      this.pointing.point(here.id);
      if (!this.tool.endsWith("-box")) {
        this.set.remember();
        this.set.put([here], !this.set.kept.has(here.id));
        this.draw();
      } else if (this.box && this.box.index === index) {
        this.close();
      } else {
        this.box = { index, from: this.middle(here), to: this.middle(here), keys: true };
        this.draw();
      }
    }

    /* ---- drawing ---- */

    pointed() {
      this.draw();
    }

    draw() {
      if (!this.value.total || !this.host.clientWidth) return;
      if (!this.figures) this.open();
      this.figures.forEach((figure, index) => this.paint(figure, index));
      this.undo.disabled = !this.set.past.length;
      this.free.disabled = !this.set.boxes.length;
      this.tell();
    }

    paint({ canvas, caption, picture }, index) {
      const image = this.value.images[index];
      const own = this.pictures[index];
      const kept = this.set.count(index);
      caption.replaceChildren(make("span", "vt-name", image.name), make("span", "", `${kept} of ${own.length} patches kept`));
      canvas.setAttribute("aria-label", `${image.name}: ${kept} of ${own.length} patches kept. ${KEYS}`);
      if (!picture.complete || !picture.naturalWidth || !canvas.clientWidth) return;
      const scale = window.vtprune.fit(canvas, image);
      const evidence = this.set.boxes.filter((box) => box[0] === index).map((box) => box.slice(1));
      const box = this.box && this.box.index === index ? this.drawing() : null;
      const weighs = this.tool === "evidence-box";
      window.vtprune.paint(canvas, {
        picture, scale,
        patches: own,
        veil: this.props.veil,
        look: this.props.look,
        palette: this.palette,
        plain: false,
        heat: null,
        kept: (id) => this.set.kept.has(id),
        merged: () => false,
        outlined: true,
        evidence: box && weighs && area(box) ? [...evidence, box] : evidence,
        group: box && (!weighs || !area(box)) ? this.set.touched(index, box) : [],
        cursor: own.filter(({ id }) => id === this.pointing.cursor),
      });
    }

    tell() {
      const { total } = this.value;
      const { size } = this.set.kept;
      const share = this.set.covered();
      const weighed = share === null ? "" : ` · ${percent(share)} of the evidence`;
      this.count.textContent = `${size} of ${total} tokens kept (${percent(size / total)})${weighed}`;
      this.legend.replaceChildren(swatch("vt-key-kept", "kept"), swatch("vt-key-dropped", "dropped"));
      if (this.set.boxes.length) this.legend.append(swatch("vt-key-evidence", this.drawn ? "evidence, your box" : "what decides the answer"));
      const here = this.patches[this.pointing.cursor];
      this.readout.textContent = here
        ? `Patch ${here.id} · row ${here.row + 1}, column ${here.col + 1} · ${this.set.kept.has(here.id) ? "kept" : "dropped"}`
        : "Drag over the picture to paint. On the keyboard: arrows move, Space keeps or drops, Enter asks.";
    }
  }

  let board = null;

  /* What the server would refuse is said here, and it is not asked. */
  document.addEventListener(
    "click",
    (event) => {
      const problem = board && event.target.closest("#vt-paint-start") ? board.problem() : null;
      if (!problem) return;
      event.stopImmediatePropagation();
      event.preventDefault();
      say("paint", problem, true);
    },
    true,
  );

  window.vtprune = Object.assign(window.vtprune || {}, {
    painting(element, props, watch) {
      board = new Painting(element, props, watch);
    },
    /* The server has a set; see Painting.give. */
    given(element, props, watch) {
      watch("value", () => board && props.value && board.give(props.value));
    },
    /* The inputs of an event, the last of them being what is painted now. */
    painted(inputs) {
      return [...inputs.slice(0, -1), board && board.figures ? board.painted() : null];
    },
    /* The question was changed. */
    asked(question) {
      if (board) board.asked(question.trim());
    },
  });
})();
