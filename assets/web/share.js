/* Taking something away: the link to what the page is set to, and files that the server made. */
(() => {
  "use strict";

  const { make } = window.vtprune;
  let line = null;

  const tell = (words) => {
    if (line) line.textContent = words;
  };

  /* The name of the open tab; its button is called vt-tab-NAME-button. */
  const openTab = () => {
    const button = document.querySelector('[role="tab"][aria-selected="true"]');
    const name = button && /^vt-tab-(.+)-button$/.exec(button.id);
    return name ? name[1] : null;
  };

  /* Our own parameters of the address, as ui/links.py reads them. Pictures are never among them. */
  function address(strip, question, method, keep, fields, models) {
    const query = new URLSearchParams();
    if (models && models.public) query.set("model", models.public);
    if (strip && strip.picked) query.set("example", strip.picked);
    query.set("q", question || "");
    query.set("method", method);
    for (const { name, value } of fields || []) {
      if (value !== null && value !== undefined) query.set(`p.${name}`, value);
    }
    if (keep !== null && keep !== undefined) query.set("keep", keep);
    const tab = openTab();
    if (tab) query.set("tab", tab);
    return `${location.origin}${location.pathname}?${query}`;
  }

  async function copyLink(strip, gallery, question, method, keep, fields, models) {
    const link = address(strip, question, method, keep, fields, models);
    const own = !(strip && strip.picked) && gallery && gallery.length;
    const note = own ? " Your pictures are not part of it: whoever opens it adds their own." : "";
    try {
      await navigator.clipboard.writeText(link);
      tell(`Link copied.${note}`);
    } catch {
      tell(`Copy this link: ${link}${note}`); // the clipboard is closed to pages that are not served safely
    }
  }

  /* value: {file, name, said}: a file to hand over, and words. */
  function saved(element, props, watch) {
    line = element.querySelector(".vt-saved");
    line.setAttribute("role", "status");
    const show = () => {
      const { file, name, said } = props.value || {};
      tell(said || "");
      if (!file) return;
      const anchor = make("a");
      anchor.href = file.url;
      anchor.download = name;
      document.body.append(anchor);
      anchor.click();
      anchor.remove();
    };
    watch("value", show);
    show();
  }

  window.vtprune = Object.assign(window.vtprune || {}, {
    saved,
    copyLink,
    /* What the map shows, so that the server draws the same. */
    looking() {
      const map = window.vtprune.maps.main;
      return { view: map.shown || "kept", selection: map.selection, first: map.preview };
    },
  });
})();
