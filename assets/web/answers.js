/* Both answers token by token, one step above the other: what each side said, how sure it was, what else it
 * weighed, and how far the two distributions are apart. */
(() => {
  "use strict";

  const { make, number } = window.vtprune;
  const NAMES = { full: "All tokens", pruned: "Pruned" };
  const LEGEND = "Upper: all tokens, lower: pruned, each with its probability.";
  const KL =
    "The last bar is KL(full ‖ pruned) of the two next-token distributions, in nats, after the same words on both " +
    "sides";
  const LEAST = 0.1; // nats; so that a bar is not full where nothing differs

  const percent = (p) => {
    if (p >= 0.995) return p === 1 ? "100%" : ">99%";
    return p < 0.005 ? "<1%" : `${Math.round(100 * p)}%`;
  };

  const nats = (kl) => `KL ${kl < 0.0005 ? "<0.001" : number(kl)} nats`;

  const bar = (className, share) => {
    const outer = make("span", className);
    const inner = make("i");
    inner.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
    outer.append(inner);
    return outer;
  };

  /* What to call a token: its own text, or the name of one that has none, such as the end of the answer. */
  const word = ({ text, top }) => text.trim() || (top.length ? top[0][0].trim() : "") || "␣";

  class Tokens {
    constructor(element, props, watch) {
      this.props = props;
      this.host = element.querySelector(".vt-tokens");
      this.head = make("h3", "", "Token by token");
      this.steps = make("div", "vt-steps");
      this.steps.setAttribute("role", "group");
      this.steps.setAttribute("aria-label", "Tokens of both answers; arrow keys move from one to the next");
      this.steps.addEventListener("keydown", (event) => this.key(event));
      this.steps.addEventListener("pointerleave", () => this.pick(this.pinned));
      this.legend = make("p", "vt-quiet");
      this.readout = make("div", "vt-weighed");
      this.readout.setAttribute("aria-live", "polite");
      this.host.replaceChildren(this.head, this.steps, this.readout, this.legend);
      watch("value", () => this.show());
      this.show();
    }

    show() {
      const { full, pruned, parts, kl } = this.props.value || { full: [], pruned: [] };
      const count = Math.max(full.length, pruned.length);
      this.host.hidden = !count;
      this.sides = { full, pruned };
      this.kl = kl;
      this.parts = parts;
      this.most = Math.max(LEAST, ...(kl || []));
      this.cells = Array.from({ length: count }, (_, index) => this.cell(index));
      this.steps.replaceChildren(...this.cells);
      if (!count) return;
      const end = parts === null ? "" : "; it ends where the two part, as they then continue different texts";
      this.legend.textContent = kl.length ? `${LEGEND} ${KL}; a full bar is ${number(this.most)}${end}.` : LEGEND;
      this.pinned = parts === null ? Math.max(0, kl.indexOf(Math.max(...kl))) : parts;
      this.pick(this.pinned);
    }

    cell(index) {
      const cell = make("button", "vt-step");
      cell.type = "button";
      const said = [`Step ${index + 1}`];
      for (const [side, name] of Object.entries(NAMES)) {
        const token = this.sides[side][index];
        const box = make("span", `vt-token is-${side}`);
        if (token) {
          box.append(make("b", "", word(token)), bar("vt-prob", token.prob), make("small", "", percent(token.prob)));
          said.push(`${name}: ${word(token)}, ${percent(token.prob)}`);
        } else {
          box.append(make("b", "is-over", "–"));
          said.push(`${name}: already ended`);
        }
        cell.append(box);
      }
      const kl = this.kl && this.kl[index];
      const strip = bar("vt-kl", kl === undefined ? 0 : kl / this.most);
      if (kl === undefined) strip.classList.add("is-unknown");
      cell.append(strip);
      if (kl !== undefined) said.push(nats(kl));
      if (index === this.parts) {
        cell.classList.add("is-parting");
        cell.append(make("small", "vt-parting", "parts here"));
        said.push("the answers part here");
      }
      cell.setAttribute("aria-label", said.join(". "));
      cell.addEventListener("pointerenter", () => this.pick(index));
      cell.addEventListener("focus", () => this.pick((this.pinned = index)));
      cell.addEventListener("click", () => this.pick((this.pinned = index)));
      return cell;
    }

    key(event) {
      const ways = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
      if (!(event.key in ways)) return;
      const next = this.cells[this.index + ways[event.key]];
      if (next) next.focus();
      event.preventDefault();
    }

    /* Show what the model weighed at a step. */
    pick(index) {
      if (!this.cells[index]) return;
      this.index = index;
      this.cells.forEach((cell, i) => {
        cell.classList.toggle("is-here", i === index);
        cell.tabIndex = i === index ? 0 : -1;
      });
      const kl = this.kl && this.kl[index];
      const apart = kl === undefined ? "" : ` · ${nats(kl)}`;
      this.readout.replaceChildren(
        make("p", "vt-weighed-head", `Step ${index + 1}: the likeliest tokens${apart}`),
        ...Object.entries(NAMES).map(([side, name]) => this.list(name, this.sides[side][index])),
      );
    }

    list(name, token) {
      const box = make("div", "vt-top");
      box.append(make("h4", "", name));
      if (!token) box.append(make("p", "vt-quiet", "This answer has already ended."));
      for (const [text, p] of token ? token.top : []) {
        const row = make("div", "vt-top-row");
        row.append(make("span", "", text.trim() || "␣"), bar("vt-prob", p), make("small", "", percent(p)));
        box.append(row);
      }
      return box;
    }
  }

  window.vtprune = Object.assign(window.vtprune || {}, {
    tokens(element, props, watch) {
      new Tokens(element, props, watch);
    },
  });
})();
