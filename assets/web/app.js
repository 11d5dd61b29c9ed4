/* The small parts of the page that live in the browser: theme, examples and suggestions, method options,
 * what the budget slider says. */
(() => {
  "use strict";

  const THEME = "vtprune-theme";
  const LARGEST = 20 * 2 ** 20;
  const ALLOWED = "PNG, JPEG or WebP, up to 20 MB and 40 megapixels";
  const WAITING = "Waiting for the model …";

  const { make, tokensFor } = window.vtprune;

  function setTheme(dark) {
    document.body.classList.toggle("dark", dark);
    document.documentElement.style.colorScheme = dark ? "dark" : "light";
  }

  /* The header's button; the choice is remembered in this browser. */
  function theme(element) {
    let stored = null;
    try {
      stored = localStorage.getItem(THEME);
    } catch {
      stored = null; // storage may be forbidden; then the choice lasts as long as the page
    }
    if (stored) setTheme(stored === "dark");
    element.addEventListener("click", (event) => {
      if (!event.target.closest(".vt-theme")) return;
      const dark = !document.body.classList.contains("dark");
      setTheme(dark);
      try {
        localStorage.setItem(THEME, dark ? "dark" : "light");
      } catch {
        return;
      }
    });
  }

  /* Buttons to pick one of several things; value: {label, items: [{id, title, detail, thumb}], picked}. */
  function choices(element, props, watch, trigger) {
    const host = element.querySelector(".vt-choices");
    const build = () => {
      const { label, items, picked } = props.value || { items: [] };
      host.setAttribute("role", "group");
      host.setAttribute("aria-label", label || "");
      host.hidden = !items.length;
      host.replaceChildren(
        ...items.map(({ id, title, detail, thumb }) => {
          const button = make("button", "vt-choice");
          button.type = "button";
          button.dataset.id = id;
          button.setAttribute("aria-pressed", String(id === picked));
          if (thumb) {
            const image = make("img");
            image.src = thumb.url;
            image.alt = "";
            button.append(image);
          }
          const text = make("span", "vt-choice-text");
          text.append(make("span", "vt-choice-title", title));
          if (detail) text.append(make("span", "vt-choice-detail", detail));
          button.append(text);
          button.addEventListener("click", () => trigger("select", { id }));
          return button;
        }),
      );
    };
    watch("value", build);
    build();
  }

  /* A method's options; value: [{name, value, kind}], written back as they are changed. */
  function options(element, props, watch) {
    const host = element.querySelector(".vt-options");
    let shown = null;
    const change = (name, value) => {
      props.value = props.value.map((field) => (field.name === name ? { ...field, value } : field));
      shown = JSON.stringify(props.value);
    };
    const build = () => {
      const fields = props.value || [];
      const now = JSON.stringify(fields);
      if (now === shown) return;
      shown = now;
      const rows = fields.map(({ name, value, kind }) => {
        const row = make("label", "vt-option");
        const input = make("input");
        if (kind === "bool") {
          input.type = "checkbox";
          input.checked = value;
          input.addEventListener("change", () => change(name, input.checked));
        } else if (kind === "text") {
          input.type = "text";
          input.value = value;
          input.addEventListener("input", () => change(name, input.value));
        } else {
          input.type = "number";
          input.step = kind === "int" ? "1" : "any";
          input.value = value;
          input.addEventListener("input", () => change(name, input.value === "" ? null : Number(input.value)));
        }
        row.append(make("span", "", name), input);
        return row;
      });
      host.replaceChildren(...(rows.length ? rows : [make("p", "vt-quiet", "This method has no options.")]));
    };
    watch("value", build);
    build();
  }

  /* The line under the gallery: files that were refused, by the server (the value) or already here. */
  function guard(element, props, watch) {
    const host = element.querySelector(".vt-refused");
    host.setAttribute("role", "alert");
    let here = [];
    let sifted = false;
    const show = () => {
      host.textContent = [...here, props.value].filter(Boolean).join(" ");
      host.classList.toggle("vt-error", host.textContent !== "");
    };
    const fault = (file) => {
      const size = (file.size / 2 ** 20).toFixed(1);
      if (file.size > LARGEST) return `${file.name} has ${size} MB: pictures may be ${ALLOWED}.`;
      return file.type.startsWith("image/") ? null : `${file.name} is not a picture: allowed are ${ALLOWED}.`;
    };
    /* What is left of the chosen files goes on to Gradio, which would refuse them all with one bare word. */
    const sift = (event) => {
      const gallery = event.target.closest("#vt-gallery");
      const files = event.type === "drop" ? event.dataTransfer.files : event.target.files;
      if (!gallery || !files || !files.length || sifted) return;
      here = [...files].map(fault).filter(Boolean);
      show();
      if (!here.length) return;
      event.stopImmediatePropagation();
      event.preventDefault();
      const left = new DataTransfer();
      for (const file of files) if (!fault(file)) left.items.add(file);
      const input = gallery.querySelector("input[type=file]");
      if (!input || !left.files.length) return;
      input.files = left.files;
      sifted = true;
      input.dispatchEvent(new Event("change", { bubbles: true }));
      sifted = false;
    };
    /* Gradio puts the button that uploads inside another one; only the inner one is for people. */
    const unnest = () => {
      for (const outer of document.querySelectorAll("#vt-gallery button:has(button)")) {
        outer.setAttribute("role", "group");
        outer.tabIndex = -1;
      }
    };
    new MutationObserver(unnest).observe(host.closest(".vt-card"), { childList: true, subtree: true });
    unnest();
    document.addEventListener("change", sift, true);
    document.addEventListener("drop", sift, true);
    watch("value", show);
    show();
  }

  /* Words in the status line before the server has any. */
  function say(words) {
    const line = document.querySelector("#vt-ask .vt-status");
    if (line) {
      line.className = "vt-status";
      line.textContent = words;
    }
  }

  /* The line under the slider; value: {total, images} of the pictures that are in, total null if unknown. */
  let budgetLine = null;
  function budget(element, props, watch) {
    const host = element.querySelector(".vt-budget");
    let percent = null;
    const write = (note) => {
      const { total, images, keep } = props.value;
      const share = percent === null ? keep : percent;
      const text = total ? `${tokensFor(share, total, images)} of ${total} tokens` : "";
      const hint = total ? note : "Add a picture to see how many tokens that is.";
      host.replaceChildren(make("strong", "", text), make("span", "vt-quiet", hint));
    };
    watch("value", () => {
      percent = null;
      write("");
    });
    document.addEventListener("vtprune:map", () => write(""));
    budgetLine = (share, request) => {
      percent = share;
      write(window.vtprune.maps.main ? window.vtprune.maps.main.budget(share, request) : "");
    };
    write("");
  }

  window.vtprune = Object.assign(window.vtprune || {}, {
    theme,
    choices,
    options,
    budget,
    guard,
    /* The slider moved: no server is asked. */
    slide(percent, question, method, fields) {
      const params = Object.fromEntries((fields || []).map(({ name, value }) => [name, value]));
      if (budgetLine) budgetLine(percent, JSON.stringify([question.trim(), method, params]));
    },
    /* Stop was pressed: the run says itself when it has ended. */
    stopping() {
      say("Stopping …");
    },
    /* Run was pressed: say so at once, and on a narrow screen bring the result into view. */
    started() {
      say(WAITING);
      window.vtprune.tab("run");
      const map = document.getElementById("vt-see");
      if (map && window.innerWidth < 900) map.scrollIntoView({ behavior: "smooth" });
    },
  });
})();
