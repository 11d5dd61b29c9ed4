/* Who went into whom: what merging methods made of the patches, up to one of their selections. */
(() => {
  "use strict";

  const NAMED = 8; // patches that a sentence names

  const add = (lists, key, id) => (lists.has(key) ? lists.get(key).push(id) : lists.set(key, [id]));

  const patches = (ids) => {
    const some = `${ids.slice(0, NAMED).join(", ")}${ids.length > NAMED ? ` and ${ids.length - NAMED} more` : ""}`;
    return ids.length === 1 ? `patch ${some}` : `${ids.length} patches: ${some}`;
  };

  class Blend {
    /* stages: the selections made so far, as ui/patchmap.py makes them. */
    constructor(stages) {
      this.several = stages.length > 1;
      this.took = new Map(); // patch -> those that went into it, the heaviest first
      this.went = new Map(); // patch that is gone -> those that it went into
      this.shared = new Map(); // patch -> those that it holds a part of, though they are kept themselves
      this.where = new Map(); // patch that is gone -> after which selection
      const last = stages[stages.length - 1];
      this.alive = new Set(last ? last.keep : []); // kept, or part of a kept one
      for (const { keep, label, merges } of [...stages].reverse()) {
        const kept = new Set(keep);
        for (let i = 0; i < merges.length; i += 2) {
          const [target, source] = merges.slice(i, i + 2);
          if (kept.has(source)) {
            add(this.shared, target, source);
            continue;
          }
          add(this.took, target, source);
          add(this.went, source, target);
          this.where.set(source, label);
          if (target < 0 || this.alive.has(target)) this.alive.add(source);
        }
      }
    }

    get any() {
      return this.took.size > 0;
    }

    /* The patches that went into this one, or that it went into. */
    around(id) {
      return [...(this.took.get(id) || []), ...(this.went.get(id) || [])];
    }

    /* What became of a patch, or what it holds, in words; none where nothing was blended. */
    words(id) {
      const said = [];
      const took = this.took.get(id);
      const went = this.went.get(id);
      const shared = this.shared.get(id);
      if (took) said.push(`absorbed ${patches(took)}`);
      if (shared) said.push(`holds parts of ${shared.length} kept ${shared.length === 1 ? "one" : "ones"}`);
      if (went) {
        const where = this.several ? ` ${this.where.get(id)}` : "";
        const later = this.alive.has(id) ? "" : ", dropped later";
        said.push(`went into ${went.includes(-1) ? "a new token" : patches(went)}${where}${later}`);
      }
      return said;
    }
  }

  window.vtprune = Object.assign(window.vtprune || {}, { Blend });
})();
