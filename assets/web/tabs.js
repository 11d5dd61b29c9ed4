/* What the tabs share in the browser. */
(() => {
  "use strict";

  /* Words in a tab's status line, before the server has any. */
  const say = (name, words, error = false) => {
    const line = document.querySelector(`#vt-${name}-status .vt-status`);
    if (!line) return;
    line.className = error ? "vt-status vt-error" : "vt-status";
    line.textContent = words;
  };

  window.vtprune = Object.assign(window.vtprune || {}, {
    /* Show a tab. */
    tab(name) {
      const button = document.querySelector(`#vt-tabs [role=tab][data-tab-id="${name}"]`);
      if (button && button.getAttribute("aria-selected") !== "true") button.click();
    },
    /* Press a button in a person's place. */
    press(id) {
      document.getElementById(id).click();
    },
    say,
    /* Start was pressed in a tab: say so before the server does. */
    waiting(name) {
      say(name, "Waiting for the model …");
    },
  });
})();
