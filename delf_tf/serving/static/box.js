// A part of the shown picture, drawn by a pointer or typed: edges y0, x0, y1, x1 as shares of it.

const $ = (id) => document.getElementById(id);
const MIN_BOX_PX = 8;

export function showBox(edges) {
  $("box").hidden = edges === null;
  const [y0, x0, y1, x1] = edges || [0, 0, 1, 1];
  const percent = { left: x0, top: y0, width: x1 - x0, height: y1 - y0 };
  for (const [side, share] of Object.entries(percent)) $("box").style[side] = `${100 * share}%`;
  for (const [id, share] of [["top", y0], ["left", x0], ["bottom", y1], ["right", x1]]) {
    $(id).value = (100 * share).toFixed(1);
  }
}

// choose(edges) is called with every part that is drawn or typed, refuse() with one that is none.
export function watchBoxes(choose, refuse) {
  let start = null;
  const frame = () => $("picture").getBoundingClientRect();
  const share = (value, from, size) => Math.min(Math.max((value - from) / size, 0), 1);
  const drawn = (end) => {
    const at = frame();
    const xs = [start.clientX, end.clientX].map((x) => share(x, at.left, at.width)).sort((a, b) => a - b);
    const ys = [start.clientY, end.clientY].map((y) => share(y, at.top, at.height)).sort((a, b) => a - b);
    return [ys[0], xs[0], ys[1], xs[1]];
  };
  $("preview").addEventListener("pointerdown", (event) => {
    start = event;
    $("preview").setPointerCapture(event.pointerId);
  });
  $("preview").addEventListener("pointermove", (event) => start && showBox(drawn(event)));
  $("preview").addEventListener("pointerup", (event) => {
    if (!start) return;
    const edges = drawn(event), at = frame();
    start = null;
    const isLarge = (edges[3] - edges[1]) * at.width >= MIN_BOX_PX && (edges[2] - edges[0]) * at.height >= MIN_BOX_PX;
    if (isLarge) choose(edges);
    else refuse();
  });
  $("edges").addEventListener("submit", (event) => {
    event.preventDefault();
    const edges = ["top", "left", "bottom", "right"].map((id) => $(id).valueAsNumber / 100);
    if (edges[0] < edges[2] && edges[1] < edges[3]) choose(edges);
    else refuse("Left must be less than right, and top less than bottom.");
  });
}
