/* Many budgets: above, what each method kept (or how far it is from the full answer) against the number of tokens;
 * below, a lane for each method that shows where its answer changes. Every point opens its run. The value is made
 * by ui/tabs/sweep.py. */
(() => {
  "use strict";

  const { make, number, radios, rest } = window.vtprune;
  const COLOURS = 6; // --vt-series-0 …
  const DASHES = ["", "7 4", "2 3"];
  const TICKS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000];
  const LANE = 52;
  const MEASURES = [
    ["evidence", "Evidence kept", "Share of what decides the answer that was kept"],
    ["kl", "Divergence", "The largest KL(full ‖ pruned) of a next-token distribution, in nats, up to where the answers part"],
  ];
  const KEYS = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };

  const shape = (tag, attributes, parent, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    if (parent) parent.append(node);
    return node;
  };

  /* The marker of the index-th method around (x, y). */
  function marker(index, x, y, r = 5) {
    const polygon = (corners) => `M${corners.map(([dx, dy]) => `${x + r * dx} ${y + r * dy}`).join("L")}Z`;
    return [
      `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`,
      polygon([[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]]),
      polygon([[0, -1.15], [1.1, 0.85], [-1.1, 0.85]]),
      polygon([[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]]),
      polygon([[0, 1.15], [1.1, -0.85], [-1.1, -0.85]]),
    ][index % 5];
  }

  const colour = (index) => `var(--vt-series-${index % COLOURS})`;

  const percent = (share) => {
    const value = 100 * share;
    return `${value < 10 ? +value.toFixed(1) : Math.round(value)} %`;
  };

  class Sweep {
    constructor(element, props, watch, trigger) {
      this.props = props;
      this.trigger = trigger;
      this.host = element.querySelector(".vt-sweep");
      this.head = make("div", "vt-asked");
      this.measure = null; // until a person chooses: evidence where it is known
      this.measures = radios("What the lines show", MEASURES, (name) => {
        this.measure = name;
        this.draw();
      });
      this.keys = make("div", "vt-legend");
      const bar = make("div", "vt-map-bar");
      bar.append(this.measures.root, this.keys);
      this.plot = make("div", "vt-plot");
      this.plot.setAttribute("role", "group");
      this.plot.setAttribute(
        "aria-label",
        "Points of the sweep: left and right arrow keys change the budget, up and down the method, Enter opens the run.",
      );
      this.plot.addEventListener("keydown", (event) => this.key(event));
      this.plot.addEventListener("pointerleave", () => this.mark(this.here));
      this.readout = make("p", "vt-readout");
      this.readout.setAttribute("aria-live", "polite");
      this.words = make("div", "vt-flips");
      this.host.replaceChildren(this.head, bar, this.plot, this.readout, this.words);
      this.here = [0, 0]; // method and point that the keys are at
      watch("value", () => this.show());
      new ResizeObserver(() => this.draw()).observe(this.plot);
      this.show();
    }

    show() {
      const { series, question, full, truth, total, model } = this.props.value;
      this.host.classList.toggle("is-empty", !series.length);
      this.series = series.map((one, index) => ({
        ...one,
        index,
        points: [...one.points].sort((a, b) => a.tokens - b.tokens || a.keep - b.keep),
      }));
      const known = series.some(({ points }) => points.some(({ evidence }) => evidence !== null));
      rest(this.measures.inputs.evidence, known ? "" : "What decides the answer is known of recorded examples only.");
      this.shown = known ? this.measure || "evidence" : "kl";
      const line = make("p");
      line.append(make("strong", "", full || "(no words)"), ` with all ${total} tokens`);
      const parts = [make("p", "vt-quiet", `“${question}”, with ${model}`)];
      if (total) parts.push(line);
      if (truth) parts.push(make("p", "vt-quiet", `Right answer: ${truth}`));
      this.head.replaceChildren(...parts);
      this.tellFlips();
      this.draw();
    }

    /* ---- the chart ---- */

    draw() {
      const width = this.plot.clientWidth;
      if (!width || !this.series.length) return;
      this.shown = this.measures.inputs.evidence.disabled ? "kl" : this.measure || "evidence";
      this.measures.inputs[this.shown].checked = true;
      const focused = this.plot.contains(document.activeElement);
      const top = { y: 12, height: width < 560 ? 190 : 260 };
      const left = 46;
      const right = width - 16;
      const lanes = top.y + top.height + 62;
      const height = lanes + LANE * this.series.length + 8;
      const svg = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}` });
      const every = this.series.flatMap(({ points }) => points);
      this.scales(every, left, right, top);
      this.axes(svg, left, right, top);
      this.nodes = this.series.map(({ points }) => points.map(() => []));
      for (const one of this.series) this.line(svg, one);
      this.series.forEach((one, lane) => this.lane(svg, one, lanes + LANE * lane, left, right));
      this.plot.replaceChildren(svg);
      this.legend();
      this.mark(this.here);
      if (focused) this.focus();
    }

    scales(every, left, right, top) {
      const { total, range } = this.props.value;
      const counts = [...every.map(({ tokens }) => tokens), ...range.map((share) => Math.max(1, share * total))];
      const [low, high] = [Math.log(Math.min(...counts)), Math.log(Math.max(...counts))];
      const wide = Math.max(high - low, 0.1);
      this.limits = [Math.exp(low), Math.exp(high)];
      this.x = (tokens) => left + 10 + ((Math.log(tokens) - low) / wide) * (right - left - 20);
      const most = this.shown === "kl" ? Math.max(0.1, ...every.map(({ kl }) => kl)) : 1;
      this.most = most;
      this.y = (value) => top.y + top.height - (value / most) * top.height;
    }

    axes(svg, left, right, top) {
      const bottom = top.y + top.height;
      const grid = shape("g", { class: "vt-axes", "aria-hidden": "true" }, svg);
      for (let i = 0; i <= 4; i++) {
        const value = (this.most * i) / 4;
        const y = this.y(value);
        shape("line", { x1: left, x2: right, y1: y, y2: y }, grid);
        const text = this.shown === "kl" ? number(value) : `${Math.round(100 * value)} %`;
        shape("text", { x: left - 6, y: y + 4, "text-anchor": "end" }, grid, text);
      }
      let last = -Infinity;
      for (const tick of TICKS) {
        const x = this.x(tick);
        if (tick < this.limits[0] * 0.99 || tick > this.limits[1] * 1.01 || x - last < 34) continue;
        last = x;
        shape("line", { x1: x, x2: x, y1: top.y, y2: bottom + 5 }, grid);
        shape("text", { x, y: bottom + 25, "text-anchor": "middle" }, grid, tick);
      }
      const what = `visual tokens kept, of ${this.props.value.total} (logarithmic)`;
      shape("text", { x: (left + right) / 2, y: bottom + 44, "text-anchor": "middle" }, grid, what);
    }

    line(svg, { points, index, flips }) {
      const group = shape("g", { "aria-hidden": "true" }, svg);
      const found = points.map((point, i) => ({ point, i })).filter(({ point }) => point[this.shown] !== null);
      const at = ({ tokens, [this.shown]: value }) => [this.x(tokens), this.y(value)];
      const path = found.map(({ point }) => at(point).join(" ")).join("L");
      if (path) {
        const dash = DASHES[Math.floor(index / COLOURS) % DASHES.length];
        shape("path", { d: `M${path}`, class: "vt-line", style: `stroke:${colour(index)}`, "stroke-dasharray": dash }, group);
      }
      const changed = new Set(flips.map(({ tokens }) => tokens));
      for (const { point, i } of found) {
        const [x, y] = at(point);
        if (changed.has(point.tokens)) shape("path", { d: `M${x} ${y - 11}V${y + 11}`, class: "vt-flip" }, group);
        this.point(group, x, y, index, i, point);
      }
    }

    /* A method's own line: its answers from few tokens to all, and a stroke where they change. */
    lane(svg, { title, points, index, flips }, y, left, right) {
      const group = shape("g", {}, svg);
      const middle = y + 28;
      shape("text", { x: left, y: y + 11, class: "vt-lane-name" }, group, title);
      shape("line", { x1: left, x2: right, y1: middle, y2: middle, class: "vt-lane" }, group);
      const changed = new Map(flips.map(({ tokens }, i) => [tokens, i]));
      let last = Infinity;
      for (const { tokens } of [...points].reverse()) {
        if (!changed.has(tokens)) continue;
        const above = points.find((point) => point.tokens > tokens);
        const x = above ? (this.x(tokens) + this.x(above.tokens)) / 2 : this.x(tokens) + 8;
        shape("path", { d: `M${x} ${middle - 9}V${middle + 9}`, class: "vt-flip" }, group);
        const label = `≠ ${+tokens.toPrecision(3)}`;
        if (last - x < 40) continue;
        shape("text", { x, y: middle + 23, "text-anchor": "middle", class: "vt-flip-name" }, group, label);
        last = x;
      }
      points.forEach((point, i) => {
        const node = this.point(group, this.x(point.tokens), middle, index, i, point);
        node.setAttribute("role", "button");
        node.setAttribute("tabindex", "-1");
        node.setAttribute("aria-label", `${this.say(index, i)} Opens this run.`);
        node.addEventListener("focus", () => this.mark((this.here = [index, i])));
      });
    }

    /* One point, filled where it answers as all tokens do; both its drawings are marked together. */
    point(group, x, y, index, i, point) {
      const node = shape("g", { class: `vt-point${point.same ? "" : " is-other"}`, style: `--own:${colour(index)}` }, group);
      node.dataset.method = this.series[index].method;
      node.dataset.keep = point.keep;
      shape("circle", { cx: x, cy: y, r: 13, class: "vt-reach" }, node);
      shape("path", { d: marker(index, x, y) }, node);
      node.addEventListener("pointerenter", () => this.mark([index, i]));
      node.addEventListener("click", () => this.open(index, i));
      this.nodes[index][i].push(node);
      return node;
    }

    legend() {
      const key = (node, text) => {
        const item = make("span", "vt-key");
        item.append(node, make("span", "", text));
        return item;
      };
      const sample = (index, same) => {
        const svg = shape("svg", { width: 18, height: 18, "aria-hidden": "true" });
        const node = shape("g", { class: `vt-point${same ? "" : " is-other"}`, style: `--own:${colour(index)}` }, svg);
        shape("path", { d: marker(index, 9, 9, 6) }, node);
        return svg;
      };
      const stroke = shape("svg", { width: 18, height: 18, "aria-hidden": "true" });
      shape("path", { d: "M9 2V16", class: "vt-flip" }, stroke);
      this.keys.replaceChildren(
        ...this.series.map(({ title, index }) => key(sample(index, true), title)),
        key(sample(0, true), "filled: same answer as with all tokens"),
        key(sample(0, false), "hollow: another answer"),
        key(stroke, "the answer changes"),
      );
    }

    /* ---- points ---- */

    say(index, i) {
      const { title, points } = this.series[index];
      const { tokens, share, answer, same, evidence, kl } = points[i];
      const parts = [title, `${tokens} of ${this.props.value.total} tokens (${percent(share)})`, `“${answer}”`];
      parts.push(same ? "same answer as with all tokens" : "not the answer of all tokens");
      if (evidence !== null) parts.push(`${Math.round(100 * evidence)} % of the evidence kept`);
      parts.push(`KL ${kl < 0.001 ? "< 0.001" : number(kl)} nats`);
      return `${parts.join(" · ")}.`;
    }

    mark([index, i]) {
      if (!this.nodes) return;
      this.plot.querySelectorAll(".is-here").forEach((node) => node.classList.remove("is-here"));
      const nodes = (this.nodes[index] && this.nodes[index][i]) || [];
      nodes.forEach((node) => node.classList.add("is-here"));
      this.readout.textContent = nodes.length ? `${this.say(index, i)} Click a point, or press Enter, to open its run.` : "";
      const stop = this.button(this.here);
      if (stop) stop.setAttribute("tabindex", "0");
    }

    /* The drawing of a point that takes the focus: the one in its lane. */
    button([index, i]) {
      const nodes = (this.nodes[index] && this.nodes[index][i]) || [];
      return nodes[nodes.length - 1];
    }

    focus() {
      const node = this.button(this.here);
      if (node) node.focus();
    }

    key(event) {
      const [index, i] = this.here;
      if (event.key in KEYS) {
        const [down, along] = KEYS[event.key];
        const lane = Math.min(Math.max(index + down, 0), this.series.length - 1);
        const count = this.series[lane].points.length;
        if (!count) return;
        const old = this.button(this.here);
        if (old) old.setAttribute("tabindex", "-1");
        this.here = [lane, Math.min(Math.max(i + along, 0), count - 1)];
        this.focus();
      } else if (event.key === "Enter" || event.key === " ") {
        this.open(index, i);
      } else {
        return;
      }
      event.preventDefault();
    }

    open(index, i) {
      const { method, points } = this.series[index];
      if (points[i]) this.trigger("select", { method, keep: points[i].keep });
    }

    /* ---- in words ---- */

    tellFlips() {
      this.words.replaceChildren(
        make("h3", "", "Where the answer changes"),
        ...this.series.map(({ title, method, points, flips, words }) => {
          const box = make("section", "vt-flip-list");
          box.append(make("h4", "", title));
          for (const { tokens, words: sentence } of flips) {
            const point = points.find((other) => Math.abs(other.tokens - tokens) < 0.06);
            const button = make("button", "vt-open", sentence);
            button.type = "button";
            button.title = "Open the run at this budget";
            button.addEventListener("click", () => point && this.trigger("select", { method, keep: point.keep }));
            box.append(button);
          }
          for (const sentence of words) box.append(make("p", "vt-quiet", sentence));
          return box;
        }),
      );
    }
  }

  window.vtprune = Object.assign(window.vtprune || {}, {
    sweep(element, props, watch, trigger) {
      new Sweep(element, props, watch, trigger);
    },
  });
})();
