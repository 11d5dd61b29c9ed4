/* Pointing at a patch: one hover and pin state for all maps of the same pictures, wherever they are on the page,
 * and the mouse, touch and keys that set it. */
(() => {
  "use strict";

  const STEPS = { ArrowUp: 0, ArrowRight: 1, ArrowDown: 2, ArrowLeft: 3 };

  /* The patches of a value (see ui/patchmap.py): all of them by id, and those of each picture; each with its box
   * in shares of the picture and the ids around it: above, right, below, left. */
  function placed({ images, segments }) {
    const pictures = images.map(() => []);
    const patches = [];
    for (const { rows, cols, boxes, start, image } of segments) {
      for (let i = 0; i < rows * cols; i++) {
        const row = Math.floor(i / cols);
        const col = i % cols;
        const near = (r, c) => (r < 0 || c < 0 || r >= rows || c >= cols ? -1 : start + r * cols + c);
        const patch = {
          id: start + i, image, row, col,
          box: boxes.slice(4 * i, 4 * i + 4),
          around: [near(row - 1, col), near(row, col + 1), near(row + 1, col), near(row, col - 1)],
        };
        patches[patch.id] = patch;
        pictures[image].push(patch);
      }
    }
    return { patches, pictures };
  }

  /* cursor: id of the patch that is pointed at, or null; pinned: whether it stays when the pointer leaves. */
  class Pointing {
    constructor(name) {
      this.name = name;
      this.cursor = null;
      this.pinned = false;
      this.maps = new Set();
    }

    point(id) {
      this.cursor = id;
      for (const map of this.maps) map.pointed();
    }

    hover(id) {
      if (!this.pinned && id !== this.cursor) this.point(id);
    }

    pin(id) {
      this.pinned = id !== null && !(this.pinned && id === this.cursor);
      this.point(id);
    }

    /* Whether the key meant something. own: patches of the picture that has the focus. */
    key(key, own) {
      if (key in STEPS) {
        const current = own.find((patch) => patch.id === this.cursor);
        const next = current ? current.around[STEPS[key]] : own[0] && own[0].id;
        if (next !== undefined && next >= 0) this.point(next);
      } else if (key === "Enter" || key === " ") {
        this.pinned = this.cursor !== null && !this.pinned;
        this.point(this.cursor);
      } else if (key === "Escape") {
        this.pinned = false;
        this.point(null);
      } else {
        return false;
      }
      return true;
    }
  }

  const states = new Map();

  /* A map (anything with `pointed()`) shows a value: the state it shares with all that show the same pictures cut
   * into the same patches. Its `pointing` is replaced. */
  function join(map, { images, total }) {
    leave(map);
    const name = JSON.stringify([images.map(({ file }) => file.url), total]);
    if (!states.has(name)) states.set(name, new Pointing(name));
    map.pointing = states.get(name);
    map.pointing.maps.add(map);
  }

  function leave(map) {
    const { pointing } = map;
    if (!pointing) return;
    pointing.maps.delete(map);
    if (!pointing.maps.size) states.delete(pointing.name);
    map.pointing = null;
  }

  /* Where an event is on a canvas, in shares of its sides. */
  function place(canvas, event) {
    const frame = canvas.getBoundingClientRect();
    return [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
  }

  /* Whether a patch is at a place. */
  const holds = ({ box }, [x, y]) => x >= box[0] && x < box[2] && y >= box[1] && y < box[3];

  /* Let a person point at a map's patches on a canvas. own(): the patches that are drawn there. */
  function listen(canvas, map, own) {
    const at = (event) => {
      const where = place(canvas, event);
      const found = own().find((patch) => holds(patch, where));
      return found ? found.id : null;
    };
    canvas.addEventListener("pointermove", (event) => map.pointing.hover(at(event)));
    canvas.addEventListener("pointerleave", () => map.pointing.hover(null));
    canvas.addEventListener("click", (event) => map.pointing.pin(at(event)));
    canvas.addEventListener("keydown", (event) => {
      if (map.pointing.key(event.key, own())) event.preventDefault();
    });
  }

  window.vtprune = Object.assign(window.vtprune || {}, { placed, pointing: { join, leave, listen, place, holds } });
})();
