import { drawMatches } from "/static/matches.js";

const $ = (id) => document.getElementById(id);
const PAGE = 48;
const MIN_BOX_PX = 8;
// The query: a File, or the number of an image of the collection; `url` shows it.
let query = null;
let answer = null;
let latest = 0;
let shown = 0;

async function ask(path, options) {
  const response = await fetch(path, options);
  const content = await response.json().catch(() => ({ error: `The server answered ${response.status}.` }));
  if (!response.ok) throw new Error(content.error);
  return content;
}

function say(text, isError = false) {
  $("message").textContent = text;
  $("message").classList.toggle("error", isError);
}

function card(number, id, lines) {
  const made = document.createElement("button");
  made.className = "card";
  made.dataset.number = number;
  const picture = document.createElement("img");
  picture.loading = "lazy";
  picture.src = `/api/images/${number}/thumbnail`;
  picture.alt = id;
  made.append(picture);
  [id, ...lines].forEach((line, at) => {
    const text = document.createElement("span");
    text.textContent = line;
    if (at) text.className = "figures";
    made.append(text);
  });
  return made;
}

function choose(next) {
  if (query && query.file) URL.revokeObjectURL(query.url);
  query = next;
  answer = null;
  $("hint").hidden = true;
  $("preview").hidden = false;
  $("box").hidden = true;
  $("picture").src = query.url;
  $("clear").hidden = false;
  search(null);
}

function chooseFile(file) {
  if (file) choose({ file, url: URL.createObjectURL(file) });
}

async function search(box) {
  const mine = ++latest;
  say("Searching…");
  $("whole").hidden = box === null;
  const path = query.file ? "/api/query" : `/api/images/${query.number}/query`;
  const part = box === null ? "" : `?box=${box.join(",")}`;
  try {
    const found = await ask(path + part, { method: "POST", body: query.file });
    if (mine !== latest) return;
    answer = found;
    show();
  } catch (fault) {
    if (mine === latest) {
      $("results").hidden = true;
      say(fault.message, true);
    }
  }
}

function show() {
  say("");
  $("results").hidden = false;
  const twoStages = answer.two_stage !== null;
  $("second").hidden = !twoStages;
  $("results").classList.toggle("one", !twoStages);
  fill($("single"), answer.single_stage);
  fill($("two"), answer.two_stage || []);
  $("times").replaceChildren();
  for (const [stage, seconds] of Object.entries(answer.seconds)) {
    const name = document.createElement("dt"), value = document.createElement("dd");
    name.textContent = stage;
    value.textContent = `${(1000 * seconds).toFixed(1)} ms`;
    $("times").append(name, value);
  }
}

function fill(list, hits) {
  list.replaceChildren(
    ...hits.map((hit, rank) => {
      const inliers = hit.num_inliers === null ? "" : `, ${hit.num_inliers} inliers`;
      const item = document.createElement("li");
      const made = card(hit.number, `${rank + 1}. ${hit.id}`, [`similarity ${hit.similarity.toFixed(3)}${inliers}`]);
      made.addEventListener("click", () => open(hit));
      item.append(made);
      return item;
    }),
  );
}

async function open(hit) {
  $("pair-picture").replaceChildren();
  $("pair-title").textContent = hit.id;
  $("pair").showModal();
  const url = `/api/images/${hit.number}/thumbnail?size=large`;
  if (hit.num_inliers === null) {
    const picture = document.createElement("img");
    picture.src = url;
    picture.alt = hit.id;
    $("pair-picture").append(picture);
    return;
  }
  try {
    const matches = await ask(`/api/queries/${answer.token}/matches/${hit.number}`);
    $("pair-title").textContent = `${hit.id}: ${matches.num_inliers} inliers of ${matches.inliers.length} matches`;
    const from = { url: query.url, height: answer.height };
    $("pair-picture").append(await drawMatches(from, { url, height: matches.database_height }, matches));
  } catch (fault) {
    $("pair-title").textContent = fault.message;
  }
}

function clear() {
  latest++;
  if (query && query.file) URL.revokeObjectURL(query.url);
  query = null;
  for (const id of ["preview", "clear", "whole", "results"]) $(id).hidden = true;
  $("hint").hidden = false;
  $("times").replaceChildren();
  $("file").value = "";
  say("");
}

// A box is drawn in the shown picture's pixels and sent in those of the whole picture.
function boxFrom(start, end) {
  const frame = $("picture").getBoundingClientRect();
  const inside = (value, most) => Math.min(Math.max(value, 0), most);
  const xs = [start.clientX, end.clientX].map((x) => inside(x - frame.left, frame.width)).sort((a, b) => a - b);
  const ys = [start.clientY, end.clientY].map((y) => inside(y - frame.top, frame.height)).sort((a, b) => a - b);
  return { left: xs[0], top: ys[0], width: xs[1] - xs[0], height: ys[1] - ys[0], frame };
}

function drawBox(box) {
  $("box").hidden = false;
  for (const side of ["left", "top", "width", "height"]) $("box").style[side] = `${box[side]}px`;
}

function watchBoxes() {
  let start = null;
  $("preview").addEventListener("pointerdown", (event) => {
    start = event;
    $("preview").setPointerCapture(event.pointerId);
  });
  $("preview").addEventListener("pointermove", (event) => start && drawBox(boxFrom(start, event)));
  $("preview").addEventListener("pointerup", (event) => {
    if (!start) return;
    const box = boxFrom(start, event);
    start = null;
    if (!answer || box.width < MIN_BOX_PX || box.height < MIN_BOX_PX) {
      $("box").hidden = true;
      return;
    }
    const y = answer.height / box.frame.height, x = answer.width / box.frame.width;
    const edges = [box.top * y, box.left * x, (box.top + box.height) * y, (box.left + box.width) * x];
    search(edges.map((edge) => edge.toFixed(1)));
  });
}

async function browse() {
  const page = await ask(`/api/collection?offset=${shown}&limit=${PAGE}`);
  $("collection").textContent = `${page.name}: ${page.num_images} images`;
  for (const image of page.images) {
    const made = card(image.number, image.id, []);
    made.addEventListener("click", () => {
      window.scrollTo({ top: 0, behavior: "smooth" });
      choose({ number: image.number, url: `/api/images/${image.number}/thumbnail?size=large` });
    });
    $("browse").append(made);
  }
  shown += page.images.length;
  $("more").hidden = shown >= page.num_images;
}

$("file").addEventListener("change", () => chooseFile($("file").files[0]));
$("clear").addEventListener("click", clear);
$("whole").addEventListener("click", () => {
  $("box").hidden = true;
  search(null);
});
$("more").addEventListener("click", browse);
for (const name of ["dragenter", "dragover"]) {
  $("drop").addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.add("over");
  });
}
$("drop").addEventListener("dragleave", () => $("drop").classList.remove("over"));
$("drop").addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  chooseFile([...event.dataTransfer.files][0]);
});
document.addEventListener("paste", (event) => chooseFile([...event.clipboardData.files][0]));
watchBoxes();
browse().catch((fault) => say(fault.message, true));
