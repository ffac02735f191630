import { drawMatches } from "/static/matches.js";
import { showBox, watchBoxes } from "/static/box.js";

const $ = (id) => document.getElementById(id);
const PAGE = 48;
const MAX_PICTURES = 8;
// Of the query: {file or number of an image of the collection, name, url that shows it, box (shares
// of its sides, or null), token and height (of the server, when it has been searched with)}.
let pictures = [];
let active = 0;
let answer = null;
let latest = 0;
let shown = 0;

async function ask(path, options) {
  const response = await fetch(path, options);
  const content = await response.json().catch(() => ({ error: `The server answered ${response.status}.` }));
  if (!response.ok) throw Object.assign(new Error(content.error), { status: response.status });
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
  // The text beside it names it.
  picture.alt = "";
  made.append(picture);
  [id, ...lines].forEach((line, at) => {
    const text = document.createElement("span");
    text.textContent = line;
    if (at) text.className = "figures";
    made.append(text);
  });
  return made;
}

function drop(picture) {
  if (picture.file) URL.revokeObjectURL(picture.url);
}

function choose(added) {
  if (!added.length) return;
  const kept = $("add").checked ? pictures.length : 0;
  if (kept + added.length > MAX_PICTURES) {
    added.forEach(drop);
    say(`A query has at most ${MAX_PICTURES} pictures.`, true);
    return;
  }
  if (!kept) pictures.splice(0).forEach(drop);
  pictures.push(...added);
  active = pictures.length - 1;
  search();
}

function chooseFiles(files) {
  choose([...files].map((file) => ({ file, name: file.name, url: URL.createObjectURL(file), box: null })));
}

function showQuery() {
  const several = pictures.length > 1;
  for (const id of ["preview", "clear", "part"]) $(id).hidden = !pictures.length;
  $("hint").hidden = pictures.length > 0;
  for (const id of ["chosen", "combining"]) $(id).hidden = !several;
  $("chosen").replaceChildren(...pictures.map(chosenItem));
  const picture = pictures[active];
  $("whole").hidden = !picture || !picture.box;
  if (!picture) return;
  if ($("picture").src !== picture.url) $("picture").src = picture.url;
  $("picture").alt = `Query: ${picture.name}`;
  showBox(picture.box);
}

function chosenItem(picture, at) {
  const item = document.createElement("li"), name = document.createElement("button"), remove = document.createElement("button");
  name.textContent = picture.name;
  name.setAttribute("aria-pressed", at === active);
  name.addEventListener("click", () => {
    active = at;
    showQuery();
    $("chosen").children[at].firstChild.focus();
  });
  remove.textContent = "×";
  remove.setAttribute("aria-label", `Remove ${picture.name}`);
  remove.addEventListener("click", () => {
    pictures.splice(at, 1).forEach(drop);
    active = Math.min(active, pictures.length - 1);
    search();
    $("clear").focus();
  });
  item.append(name, remove);
  return item;
}

function choices() {
  const chosen = new URLSearchParams({ num_results: $("count").value, combine: $("combine").value });
  if ($("method").value) chosen.set("method", $("method").value);
  return chosen;
}

// Sends a picture, and keeps what the server calls it.
async function send(picture) {
  const path = picture.file ? "/api/query" : `/api/images/${picture.number}/query`;
  const asked = choices(), box = picture.box;
  if (box !== null) asked.set("box", box.map((share, at) => (share * picture.size[at % 2]).toFixed(1)).join(","));
  const found = await ask(`${path}?${asked}`, { method: "POST", body: picture.file });
  if (picture.box === box) Object.assign(picture, { token: found.token, size: [found.height, found.width] });
  return found;
}

async function results(asked) {
  let found = null;
  for (const picture of asked.filter((one) => !one.token)) found = await send(picture);
  if (asked.length === 1 && found) return found;
  const chosen = choices();
  for (const picture of asked) chosen.append("token", picture.token);
  try {
    return await ask(`/api/search?${chosen}`, { method: "POST" });
  } catch (fault) {
    if (fault.status !== 404 || found) throw fault;
    // The server has forgotten a picture since.
    for (const picture of asked) picture.token = null;
    return results(asked);
  }
}

async function search() {
  const mine = ++latest;
  showQuery();
  if (!pictures.length) return clear();
  say("Searching…");
  $("results").setAttribute("aria-busy", "true");
  const asked = [...pictures];
  try {
    const found = await results(asked);
    if (mine === latest) show({ ...found, asked });
  } catch (fault) {
    if (mine !== latest) return;
    for (const id of ["results", "csv"]) $(id).hidden = true;
    say(fault.message, true);
  }
}

function show(found) {
  answer = found;
  const twoStages = answer.two_stage !== null;
  for (const id of ["results", "csv"]) $(id).hidden = false;
  $("results").setAttribute("aria-busy", "false");
  $("second").hidden = !twoStages;
  $("used").textContent = answer.method || "";
  $("results").classList.toggle("one", !twoStages);
  fill($("single"), answer.single_stage);
  fill($("two"), answer.two_stage || []);
  $("csv").href = `/api/queries/${answer.token}/results.csv`;
  const best = (answer.two_stage || answer.single_stage)[0];
  // What was refused while the server searched is told on.
  if (!$("message").classList.contains("error"))
    say(best ? `${answer.single_stage.length} results. The best: ${best.id}` : "No results.");
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
    const picture = answer.asked[matches.picture];
    const from = { url: picture.url, height: picture.size[0] };
    $("pair-picture").append(await drawMatches(from, { url, height: matches.database_height }, matches));
  } catch (fault) {
    $("pair-title").textContent = fault.message;
  }
}

function clear() {
  latest++;
  pictures.splice(0).forEach(drop);
  showQuery();
  for (const id of ["results", "csv"]) $(id).hidden = true;
  $("times").replaceChildren();
  $("file").value = "";
  say("");
}

function searchPart(box) {
  const picture = pictures[active];
  if (!picture || !picture.size) return;
  Object.assign(picture, { box, token: null });
  search();
}

async function browse() {
  const page = await ask(`/api/collection?offset=${shown}&limit=${PAGE}`);
  $("collection").textContent = `${page.name}: ${page.num_images} images`;
  $("methods").hidden = page.methods.length < 2;
  if (!$("method").length) $("method").append(...page.methods.map((name) => new Option(name)));
  for (const image of page.images) {
    const made = card(image.number, image.id, []);
    made.addEventListener("click", () => {
      window.scrollTo({ top: 0 });
      const url = `/api/images/${image.number}/thumbnail?size=large`;
      choose([{ number: image.number, name: image.id, url, box: null }]);
      $("clear").focus({ preventScroll: true });
    });
    $("browse").append(made);
  }
  shown += page.images.length;
  $("more").hidden = shown >= page.num_images;
}

$("file").addEventListener("change", () => {
  chooseFiles($("file").files);
  // The same file can be chosen again.
  $("file").value = "";
});
$("clear").addEventListener("click", () => {
  clear();
  $("file").focus();
});
$("whole").addEventListener("click", () => searchPart(null));
for (const id of ["method", "count", "combine"]) $(id).addEventListener("change", () => pictures.length && search());
$("more").addEventListener("click", () => browse().catch((fault) => say(fault.message, true)));
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
  chooseFiles(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => chooseFiles(event.clipboardData.files));
watchBoxes(searchPart, (why) => {
  showBox(pictures[active] ? pictures[active].box : null);
  if (why) say(why, true);
});
browse().catch((fault) => say(fault.message, true));
