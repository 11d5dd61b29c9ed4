/* A set of patches that somebody paints: what is in it, the boxes around what matters, and the way back. Knows
 * nothing of the page; places are shares of a picture's sides. */
(() => {
  "use strict";

  const STEPS = 50; // that can be undone

  const { holds } = window.vtprune.pointing;
  const area = ([x0, y0, x1, y1]) => Math.max(0, x1 - x0) * Math.max(0, y1 - y0);
  const meet = (a, b) => [Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])];

  /* The smallest box around boxes. */
  const around = (boxes) => [0, 1, 2, 3].map((i) => Math[i < 2 ? "min" : "max"](...boxes.map((box) => box[i])));

  class PatchSet {
    /* patches by id, and those of each map: see `placed` in pointing.js. owners: the picture of each map. */
    constructor({ patches, pictures }, owners, ids = []) {
      this.patches = patches;
      this.pictures = pictures;
      this.owners = owners;
      this.kept = new Set(ids);
      this.past = [];
      this.boxes = []; // [map, x0, y0, x1, y1]
    }

    get sorted() {
      return [...this.kept].sort((a, b) => a - b);
    }

    /* What is in it now can be had back. */
    remember() {
      this.past = [...this.past.slice(1 - STEPS), new Set(this.kept)];
      this.given = null;
    }

    change(ids) {
      this.remember();
      this.kept = new Set(ids);
    }

    back() {
      if (this.past.length) this.kept = this.past.pop();
      this.given = null;
    }

    /* A set comes from elsewhere; all that one work gives in a row are one step back. */
    give(ids, work) {
      if (this.given !== work) this.remember();
      this.given = work;
      this.kept = new Set(ids);
    }

    put(patches, on) {
      for (const { id } of patches) this.kept[on ? "add" : "delete"](id);
    }

    all() {
      this.change(this.patches.map(({ id }) => id));
    }

    /* Padding, which nobody sees, stays out. */
    invert() {
      this.change(this.patches.filter(({ id, box }) => !this.kept.has(id) && area(box)).map(({ id }) => id));
    }

    /* The patches of a picture that a box touches. */
    touched(image, box) {
      return this.pictures[image].filter(
        (patch) => patch.box[0] < box[2] && patch.box[2] > box[0] && patch.box[1] < box[3] && patch.box[3] > box[1],
      );
    }

    /* The brush goes from one place to another; a quick hand leaves no gaps. */
    brush(image, from, to, on) {
      const own = this.pictures[image].filter(({ box }) => area(box));
      const least = Math.min(...own.map(({ box }) => Math.min(box[2] - box[0], box[3] - box[1])));
      const way = Math.max(Math.abs(to[0] - from[0]), Math.abs(to[1] - from[1]));
      const count = Math.max(1, Math.ceil((2 * way) / least));
      for (let i = 0; i <= count; i++) {
        const where = from.map((start, axis) => start + ((to[axis] - start) * i) / count);
        this.put(own.filter((patch) => holds(patch, where)), on);
      }
    }

    count(image) {
      return this.pictures[image].filter(({ id }) => this.kept.has(id)).length;
    }

    /* Why it cannot be asked about, as a sentence, or null. */
    problem() {
      const rich = (owner) => this.owners.some((other, map) => other === owner && this.count(map));
      const empty = this.owners.find((owner, map) => this.pictures[map].length && !rich(owner));
      if (empty === undefined) return null;
      if (new Set(this.owners).size === 1) return "Nothing is kept: paint at least one patch, then ask again.";
      return `Nothing of picture ${empty + 1} is kept: paint at least one patch of each picture, then ask again.`;
    }

    /* Share of the boxes' area that its patches cover; null without boxes. */
    covered() {
      let all = 0;
      let inside = 0;
      for (const [image, ...box] of this.boxes) {
        all += area(box);
        for (const patch of this.pictures[image]) if (this.kept.has(patch.id)) inside += area(meet(patch.box, box));
      }
      return all ? Math.min(1, inside / all) : null;
    }
  }

  window.vtprune = Object.assign(window.vtprune || {}, { PatchSet, boxes: { area, around } });
})();
