// A verified pair as one drawing: both pictures side by side, a line for every inlier.

const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function size(url) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve({ width: image.naturalWidth, height: image.naturalHeight });
    image.onerror = () => reject(new Error("The picture cannot be shown."));
    image.src = url;
  });
}

// query and database: {url, height (pixels that the points are in, if not the picture's own)}.
export async function drawMatches(query, database, matches) {
  const [left, right] = await Promise.all([size(query.url), size(database.url)]);
  const height = 600;
  const widths = [left, right].map((one) => (one.width * height) / one.height);
  const gap = 12;
  const drawing = element("svg", {
    viewBox: `0 0 ${widths[0] + gap + widths[1]} ${height}`,
    role: "img",
    "aria-label": `${matches.num_inliers} inliers between the two pictures`,
  });
  const urls = [query.url, database.url];
  const shifts = [0, widths[0] + gap];
  urls.forEach((href, side) => {
    drawing.append(element("image", { href, x: shifts[side], y: 0, width: widths[side], height }));
  });
  const scales = [height / query.height, height / database.height];
  matches.inliers.forEach((inlier, row) => {
    if (!inlier) return;
    const [y1, x1] = matches.query_points[row].map((value) => value * scales[0]);
    const [y2, x2] = matches.database_points[row].map((value) => value * scales[1]);
    const colour = `hsl(${(row * 47) % 360} 85% 55%)`;
    const from = [x1, y1], to = [x2 + shifts[1], y2];
    drawing.append(element("line", { x1: from[0], y1: from[1], x2: to[0], y2: to[1], stroke: colour, "stroke-width": 1.6, opacity: 0.85 }));
    for (const [cx, cy] of [from, to]) drawing.append(element("circle", { cx, cy, r: 4, fill: "none", stroke: colour, "stroke-width": 1.6 }));
  });
  return drawing;
}
