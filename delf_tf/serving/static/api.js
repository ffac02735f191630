// Shows /openapi.json: every path with its parameters and what it answers.

function row(cells, name = "td") {
  const made = document.createElement("tr");
  for (const cell of cells) {
    const one = document.createElement(name);
    one.textContent = cell;
    made.append(one);
  }
  return made;
}

function text(name, content) {
  const made = document.createElement(name);
  made.textContent = content;
  return made;
}

function typeOf(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.enum) return schema.enum.join(" or ");
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.prefixItems) return `[${schema.prefixItems.map(typeOf).join(", ")}]`;
  if (schema.type === "array") return `list of ${typeOf(schema.items)}`;
  return schema.format || schema.type || "";
}

function answers(responses) {
  return Object.entries(responses).map(([code, response]) => {
    const [kind, content] = Object.entries(response.content || {})[0] || ["", {}];
    return row([code, typeOf(content.schema) || kind, response.description]);
  });
}

function table(header, rows) {
  const scroll = document.createElement("div");
  scroll.className = "scroll";
  const made = document.createElement("table");
  made.append(row(header, "th"), ...rows);
  scroll.append(made);
  return scroll;
}

const described = await (await fetch("/openapi.json")).json();
document.getElementById("example").textContent =
  `curl --data-binary @query.jpg -H 'Content-Type: image/jpeg' ${location.origin}/api/query`;
const paths = document.getElementById("paths");
for (const [path, methods] of Object.entries(described.paths)) {
  for (const [method, one] of Object.entries(methods)) {
    paths.append(text("h2", `${method.toUpperCase()} ${path}`), text("p", one.description || one.summary));
    const parameters = (one.parameters || []).map((p) => row([p.name, p.in, typeOf(p.schema), p.description || ""]));
    if (parameters.length) paths.append(table(["parameter", "in", "type", ""], parameters));
    paths.append(table(["status", "answer", ""], answers(one.responses)));
  }
}
paths.append(text("h2", "Types"));
for (const [name, schema] of Object.entries(described.components.schemas)) {
  const fields = Object.entries(schema.properties || {}).map(([field, one]) => row([field, typeOf(one)]));
  paths.append(text("h3", name), text("p", schema.description || ""), table(["field", "type"], fields));
}
