/* How the guided tour operates the real page: what a step does on arrival, and how a task is seen to be done. */
(() => {
  "use strict";

  const LOOK = 150; // milliseconds between two looks at the page
  const PATIENCE = 10000; // milliseconds for an example to come

  const one = (selector) => document.querySelector(selector);
  const map = () => window.vtprune.maps.main;
  const pause = (time) => new Promise((done) => setTimeout(done, time));

  /* Set a control as a hand would, so that whoever listens hears of it. */
  function set(input, value) {
    if (!input || Number(input.value) === value) return;
    Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(input, value);
    for (const kind of ["input", "change"]) input.dispatchEvent(new Event(kind, { bubbles: true }));
  }

  /* Whether the page shows a recorded example as it was recorded, and asks for nothing else. */
  function shows(name, { request, percent, method }) {
    const button = one(`.vt-strip [data-id="${name}"]`);
    const value = map() && map().value;
    return Boolean(
      button && button.getAttribute("aria-pressed") === "true" &&
      value && JSON.stringify(value.request) === JSON.stringify(request) && value.percent === percent &&
      one("#vt-ask textarea").value === request[0] && one("#vt-method input").value === method,
    );
  }

  /* What a step does to the page, by kind. */
  const acts = {
    tab: (name) => window.vtprune.tab(name),
    async example(name, { examples }) {
      const button = one(`.vt-strip [data-id="${name}"]`);
      if (!button || shows(name, examples[name])) return;
      button.click();
      for (let waited = 0; waited < PATIENCE && !shows(name, examples[name]); waited += LOOK) await pause(LOOK);
      await pause(LOOK); // the sliders follow
    },
    keep: (percent) => set(one("#vt-keep input[type=range]"), percent),
    scrub(point) {
      const { slider, points } = map().scrubber;
      if (points.length) set(slider, point === null ? points.length - 1 : point);
    },
    view(name) {
      const input = one(`#vt-see input[value=${name}]`);
      if (!input.disabled && !input.checked) input.click();
    },
    pin(patch) {
      const { pointing } = map();
      if (pointing && !(pointing.pinned && pointing.cursor === patch)) pointing.pin(patch);
    },
  };

  /* Whether a visitor did what a step asks for, by kind. */
  const tests = {
    pointed: () => map().cursor !== null,
    below: (percent) => Number(one("#vt-keep input[type=number]").value) < percent,
    reached: (selection) => map().selection >= selection,
    ran: (method) => map().value.request[1] === method && /^Done/.test(one("#vt-ask .vt-status").innerText),
  };

  window.vtprune = Object.assign(window.vtprune || {}, { touring: { acts, tests, LOOK } });
})();
