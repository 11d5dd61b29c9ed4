/* The table of models: a row each, with a button that asks for it. */
(() => {
  "use strict";

  const { make } = window.vtprune;

  /* value: {head: [text], rows: [{id, cells: [text], note}], used: id of the one in use, public: its id on the hub,
   * foot}. */
  function models(element, props, watch, trigger) {
    const host = element.querySelector(".vt-models");
    const build = () => {
      const { head, rows, used, foot } = props.value;
      const table = make("table", "");
      const top = make("tr", "");
      for (const text of [...head, ""]) {
        const cell = make("th", "", text);
        cell.scope = "col";
        top.append(cell);
      }
      const first = make("thead", "");
      first.append(top);
      const body = make("tbody", "");
      for (const { id, cells, note } of rows) {
        const row = make("tr", id === used ? "is-used" : "");
        const name = make("th", "", cells[0]);
        name.scope = "row";
        if (note) name.append(make("span", "vt-quiet", note));
        const last = make("td", "");
        if (id === used) {
          last.append(make("span", "", "in use"));
        } else {
          const button = make("button", "vt-use", "Load");
          button.type = "button";
          button.setAttribute("aria-label", `Load ${cells[0]}`);
          button.addEventListener("click", () => trigger("select", { id }));
          last.append(button);
        }
        row.append(name, ...cells.slice(1).map((text) => make("td", "", text)), last);
        body.append(row);
      }
      table.append(first, body);
      const scroll = make("div", "vt-models-scroll");
      scroll.append(table);
      host.replaceChildren(
        make("p", "vt-quiet", "One model serves everybody who has this page open: loading another one changes it for all."),
        scroll,
        make("p", "vt-quiet", foot),
      );
    };
    watch("value", build);
    build();
  }

  /* A link was made with another model: its button opens the picker, where that one's id is filled in. */
  function madeWith(element) {
    element.addEventListener("click", (event) => {
      if (!event.target.closest(".vt-made-show")) return;
      const head = document.querySelector("#vt-models .label-wrap");
      if (!head.classList.contains("open")) head.click();
      setTimeout(() => document.querySelector("#vt-model :is(input, textarea)").focus(), 100); // once it is shown
    });
  }

  window.vtprune = Object.assign(window.vtprune || {}, { models, madeWith });
})();
