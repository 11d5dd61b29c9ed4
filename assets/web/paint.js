/* Drawing one picture with its patches onto a canvas. Knows nothing of the page: everything comes in `scene`.
 * The look (opacities, colours) is vtprune/export.py's, so that exported pictures are the same. */
(() => {
  "use strict";

  const DARK = "#11141c";
  const LIGHT = "#ffffff";
  const EVIDENCE = "#ffd166";
  const CURSOR = "#ff9f1c";
  const GROUP = "#4cc9f0";

  class Palette {
    constructor(stops) {
      this.stops = stops.map((c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16)));
      this.css = `linear-gradient(to right, ${stops.join(", ")})`;
    }

    at(share, opacity) {
      const place = Math.min(Math.max(share, 0), 1) * (this.stops.length - 1);
      const low = Math.min(Math.floor(place), this.stops.length - 2);
      const mixed = this.stops[low].map((c, i) => Math.round(c + (this.stops[low + 1][i] - c) * (place - low)));
      return `rgba(${mixed.join(",")},${opacity})`;
    }
  }

  /* scene: picture (an image), patches [{id, box: shares of the picture, around: ids above, right, below,
   * left}], look, veil, palette, plain (the picture alone), heat(patch) -> share of the palette or null, or
   * null for the kept view, kept(id), merged(patch), outlined, evidence [boxes], group and cursor [patches],
   * links [pairs of patches], scale (canvas pixels a CSS pixel), line (of the outline, in canvas pixels; without it by the width). */
  function paint(canvas, scene) {
    const { width, height } = canvas;
    const { look, patches } = scene;
    const ctx = canvas.getContext("2d");

    const rect = ({ box: [x0, y0, x1, y1] }) => {
      const left = Math.round(x0 * width);
      const top = Math.round(y0 * height);
      return [left, top, Math.round(x1 * width) - left, Math.round(y1 * height) - top];
    };
    const inside = (chosen, work) => {
      ctx.save();
      ctx.beginPath();
      for (const patch of chosen) ctx.rect(...rect(patch));
      ctx.clip();
      work();
      ctx.restore();
    };
    const whole = () => ctx.drawImage(scene.picture, 0, 0, width, height);
    const veiled = (opacity) => {
      whole();
      ctx.globalCompositeOperation = "saturation";
      ctx.fillStyle = "#808080";
      ctx.fillRect(0, 0, width, height);
      ctx.globalCompositeOperation = "source-over";
      ctx.fillStyle = `rgba(${scene.veil.join(",")},${opacity})`;
      ctx.fillRect(0, 0, width, height);
    };
    const hatched = () => {
      veiled(look.dropped);
      hatch(ctx, width, height, look.hatch);
    };

    if (scene.plain) {
      whole();
    } else {
      veiled(look.unseen);
      if (scene.heat) {
        inside(patches, () => veiled(0));
        inside(patches.filter((patch) => scene.heat(patch) === null), hatched);
        for (const patch of patches) {
          const share = scene.heat(patch);
          if (share === null) continue;
          ctx.fillStyle = scene.palette.at(share, look.heat);
          ctx.fillRect(...rect(patch));
        }
      } else {
        const gone = patches.filter((patch) => !scene.kept(patch.id));
        inside(gone, hatched);
        inside(gone.filter(scene.merged), () => veiled(look.merged));
        inside(patches.filter((patch) => scene.kept(patch.id)), whole);
      }
      const line = scene.line === undefined ? Math.max(2, Math.round(width / 350)) : scene.line;
      if (scene.outlined && line) outline(ctx, scene, rect, line);
    }
    for (const box of scene.evidence) dashed(ctx, rect({ box }), 2 * Math.max(1, Math.round(width / 500)));
    for (const pair of scene.links || []) link(ctx, pair.map(rect), scene.scale);
    for (const patch of scene.group) frame(ctx, rect(patch), GROUP, 4 * scene.scale, 2 * scene.scale);
    for (const patch of scene.cursor) frame(ctx, rect(patch), CURSOR, 5 * scene.scale, 2.5 * scene.scale);
  }

  function hatch(ctx, width, height, opacity) {
    const step = Math.max(6, Math.round(Math.max(width, height) / 80));
    ctx.strokeStyle = `rgba(255,255,255,${opacity})`;
    ctx.lineWidth = Math.max(1, Math.floor(step / 6));
    ctx.beginPath();
    for (let x = 0; x < width + height; x += step) {
      ctx.moveTo(x, 0);
      ctx.lineTo(x - height, height);
    }
    ctx.stroke();
  }

  /* A white line on a dark one around every group of kept patches. */
  function outline(ctx, scene, rect, thin) {
    ctx.beginPath();
    for (const patch of scene.patches) {
      const [x, y, w, h] = rect(patch);
      if (!scene.kept(patch.id) || !w || !h) continue;
      const sides = [[x, y, x + w, y], [x + w, y, x + w, y + h], [x, y + h, x + w, y + h], [x, y, x, y + h]];
      sides.forEach(([x0, y0, x1, y1], side) => {
        if (scene.kept(patch.around[side])) return;
        ctx.moveTo(x0, y0);
        ctx.lineTo(x1, y1);
      });
    }
    for (const [style, width] of [[DARK, thin + 2 * Math.ceil(thin / 2)], [LIGHT, thin]]) {
      ctx.strokeStyle = style;
      ctx.lineWidth = width;
      ctx.stroke();
    }
  }

  function dashed(ctx, box, width) {
    ctx.lineWidth = width;
    ctx.strokeStyle = DARK;
    ctx.strokeRect(...box);
    ctx.setLineDash([3 * width, 3 * width]);
    ctx.strokeStyle = EVIDENCE;
    ctx.strokeRect(...box);
    ctx.setLineDash([]);
  }

  /* A line between the middles of two patches. */
  function link(ctx, boxes, scale) {
    const [from, to] = boxes.map(([x, y, w, h]) => [x + w / 2, y + h / 2]);
    for (const [style, width] of [[DARK, 3], [GROUP, 1.25]]) {
      ctx.strokeStyle = style;
      ctx.lineWidth = width * scale;
      ctx.beginPath();
      ctx.moveTo(...from);
      ctx.lineTo(...to);
      ctx.stroke();
    }
  }

  function frame(ctx, box, style, outer, inner) {
    for (const [colour, width] of [["#000000", outer], [style, inner]]) {
      ctx.strokeStyle = colour;
      ctx.lineWidth = width;
      ctx.strokeRect(...box);
    }
  }

  /* Give a canvas as many pixels as its place on the page deserves; returns canvas pixels a CSS pixel. */
  function fit(canvas, image) {
    const scale = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.round(canvas.clientWidth * scale);
    const height = Math.round((canvas.clientWidth * scale * image.height) / image.width);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    return scale;
  }

  window.vtprune = Object.assign(window.vtprune || {}, { Palette, paint, fit });
})();
