/* The way of the visual tokens through the model, point by point: a slider, a play button, and how many are
 * alive. Replayed from the recorded run; the server is not asked. */
(() => {
  "use strict";

  const PACE = 550; // milliseconds a point while it plays
  const { make } = window.vtprune;

  /* The points: what the vision encoder puts out, what passes the projector, and each layer of the language
   * model. stage: index of the last selection made by then, or -1. value: see ui/patchmap.py. */
  function points({ stages, layers, total }) {
    const last = (test) => stages.reduce((found, stage, index) => (test(stage) ? index : found), -1);
    const alive = (index) => (index < 0 ? total : stages[index].after);
    const early = last(({ name }) => name === "vision");
    const found = [
      { label: "Vision encoder", stage: -1, alive: total },
      { label: "Projector", stage: early, alive: alive(early) },
    ];
    const once = stages.length === 1;
    layers.forEach((count, layer) => {
      const stage = last((s) => s.layer === null || s.layer <= layer);
      const before = found[found.length - 1];
      if (once && before.from !== undefined && before.stage === stage && before.alive === count) {
        before.label = `LLM layers ${before.from} to ${layer}`; // nothing happens between them
        return;
      }
      found.push({ label: `LLM layer ${layer}`, from: layer, stage, alive: count });
    });
    return found;
  }

  class Scrubber {
    /* moved(stage index): another point was chosen. */
    constructor(moved) {
      this.moved = moved;
      this.points = [];
      this.root = make("div", "vt-scrub");
      this.play = make("button", "vt-play");
      this.play.type = "button";
      this.play.addEventListener("click", () => (this.timer ? this.pause() : this.start()));
      this.track = make("div", "vt-track");
      this.bars = make("div", "vt-bars");
      this.bars.setAttribute("aria-hidden", "true");
      this.slider = make("input");
      this.slider.type = "range";
      this.slider.min = 0;
      this.slider.setAttribute("aria-label", "Where in the model");
      this.slider.addEventListener("input", () => {
        this.pause();
        this.go(Number(this.slider.value));
      });
      this.track.append(this.bars, this.slider);
      this.said = make("p", "vt-alive");
      this.hint = make("p", "vt-quiet");
      this.root.append(this.play, this.track, this.said, this.hint);
      this.pause();
    }

    /* Another run; without one, or where nothing was dropped, there is nothing to scrub. */
    show(value) {
      this.pause();
      const { stages, layers, total } = value || { stages: [], layers: [] };
      this.total = total;
      this.blended = stages.map(({ after, keep }) => after - keep.length);
      this.root.hidden = !layers.length;
      this.points = layers.length && stages.length ? points(value) : [];
      for (const part of [this.play, this.track, this.said]) part.hidden = !this.points.length;
      this.preview = null;
      if (!layers.length) return;
      this.hint.textContent = this.story(stages, total);
      if (!this.points.length) return;
      this.track.style.setProperty("--points", this.points.length);
      this.slider.max = this.points.length - 1;
      this.bars.replaceChildren(
        ...this.points.map(({ alive }) => {
          const bar = make("i");
          bar.style.height = `${Math.max(4, (100 * alive) / total)}%`;
          return bar;
        }),
      );
      this.go(this.points.length - 1);
    }

    story(stages, total) {
      if (!stages.length) return `Nothing is dropped: all ${total} tokens pass every layer.`;
      if (stages.length === 1) return `Chosen once, ${stages[0].label}; nothing changes after that.`;
      return `Chosen in ${stages.length} steps.`;
    }

    /* count: tokens that another budget would leave, or null. */
    replay(count) {
      this.preview = count;
      if (this.points.length) this.tell();
    }

    go(index) {
      this.index = index;
      this.slider.value = index;
      this.track.style.setProperty("--at", index);
      [...this.bars.children].forEach((bar, i) => bar.classList.toggle("is-here", i === index));
      this.tell();
      this.moved(this.points[index].stage);
    }

    tell() {
      const { label, stage, alive } = this.points[this.index];
      const count = this.preview !== null && stage >= 0 ? this.preview : alive;
      const blended = this.blended[stage] > 0 ? `, ${this.blended[stage]} of them blended from others` : "";
      this.said.textContent = `${label}: ${count} of ${this.total} alive${blended}`;
      this.slider.setAttribute("aria-valuetext", this.said.textContent);
    }

    start() {
      if (this.index === this.points.length - 1) this.go(0);
      this.label("Pause", "❚❚");
      this.timer = setInterval(() => {
        this.go(this.index + 1);
        if (this.index === this.points.length - 1) this.pause();
      }, PACE);
    }

    pause() {
      clearInterval(this.timer);
      this.timer = null;
      this.label("Play", "▶");
    }

    label(words, sign) {
      this.play.setAttribute("aria-label", `${words}: the tokens on their way through the model`);
      this.play.textContent = sign;
    }
  }

  window.vtprune = Object.assign(window.vtprune || {}, { Scrubber });
})();
