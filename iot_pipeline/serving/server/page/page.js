// Page of a student: sends the pasted text, and shows the verdict. All text is set as text, never as HTML.
"use strict";

const byId = (id) => document.getElementById(id);
let token = "";
let model = null;

async function ask(path, body) {
  const headers = { "Content-Type": "application/json" };
  if (token) headers.Authorization = "Bearer " + token;
  const options = body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  const content = await answer.json().catch(() => null);
  if (answer.status === 401) byId("token-form").hidden = false;
  if (!answer.ok || content === null) {
    throw new Error(content && content.error ? content.error.message : "The server answered with status " + answer.status + ".");
  }
  return content;
}

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function fill(id, made) {
  byId(id).replaceChildren(...made);
}

function fail(error) {
  byId("error").textContent = error.message;
  byId("error").hidden = false;
}

async function describe() {
  try {
    model = (await ask("/v1/models")).data[0];
  } catch (error) {
    byId("model").textContent = error.message;
    return;
  }
  byId("token-form").hidden = true;
  byId("reference").hidden = token !== ""; /* a link sends no token */
  byId("model").textContent = model.title + ": student " + model.id + ", " + model.classes.length + " classes.";
  byId("labels").textContent = "Not real: " + model.not_real.join("; ");
  byId("labels").hidden = model.not_real.length === 0;
  const choices = [["", "not stated (read as " + model.units.default + ")"], ["raw", "raw: packets, bytes, microseconds"], ["scaled", "scaled, as the data set is published"]];
  fill("units", choices.map(([value, told]) => {
    const made = element("option", told);
    made.value = value;
    return made;
  }));
  byId("units-part").hidden = model.units.accepted.length < 2;
}

function bar(name, probability, members) {
  const row = element("div", undefined, "bar");
  const meter = element("meter");
  meter.min = 0;
  meter.max = 1;
  meter.value = probability;
  meter.setAttribute("aria-label", name);
  if (members && !members.includes(name)) row.classList.add("outside");
  row.append(element("span", name), meter, element("span", (100 * probability).toFixed(2) + " %", "number"));
  return row;
}

function spelt(place) {
  return /^p\d+$/.test(place) ? "percentile " + place.slice(1) : place.replace(/^(\d+)%$/, "$1 % have this value");
}

function certainty(result, calibrated) {
  const percent = (100 * result.probability).toFixed(1) + " %";
  const told = calibrated ? "Probability " + percent + ", calibrated." : "Probability " + percent + ", as scored: this student was not evaluated.";
  if (!result.set) return told;
  if (result.set.length === 0) return told + " No class is likely enough: the flow is unlike those that the student knows.";
  if (result.set.length === 1) return told + " Every other class is ruled out (at 95 %).";
  return told + " Unsure; these classes are not ruled out (at 95 %): " + result.set.join(", ") + ".";
}

function show(content) {
  const result = content.results[0];
  const meanings = new Map((model ? model.features : []).map((one) => [one.name, one.meaning + " (" + one.unit + ")"]));
  byId("class").textContent = result.class;
  const sure = !result.unknown && (!result.set || result.set.length === 1);
  byId("kind").textContent = result.unknown
    ? "Of no class that the student learnt; the nearest is " + result.nearest_class + "."
    : !sure ? "" : result.benign ? "Ordinary traffic." : "An attack.";
  fill("unknown", result.unknown_because.map((one) => element("li", one)));
  byId("unknown-part").hidden = result.unknown_because.length === 0;
  byId("sure").textContent = certainty(result, content.model.calibrated);
  const ordered = Object.entries(result.probabilities).sort((a, b) => b[1] - a[1]);
  fill("bars", ordered.map(([name, probability]) => bar(name, probability, result.set)));
  fill("outside", result.out_of_range.map((name) => element("li", name + (meanings.has(name) ? ": " + meanings.get(name) : ""))));
  byId("outside-part").hidden = result.out_of_range.length === 0;
  const evidence = result.evidence || [];
  byId("evidence-title").textContent = result.evidence_from === "percentiles" ? "Least usual values (no reasons of the student)" : "Cited features";
  fill("evidence", evidence.map((fact) => {
    const row = element("tr");
    row.append(element("td", fact.feature), element("td", fact.value), element("td", spelt(fact.place)), element("td", meanings.get(fact.feature) || ""));
    return row;
  }));
  byId("evidence-part").hidden = evidence.length === 0;
  byId("words-part").hidden = !result.explanation;
  if (result.explanation) {
    byId("words").textContent = result.explanation.text;
    fill("unsupported", result.explanation.unsupported.map((one) => element("li", one)));
    byId("unsupported-part").hidden = result.explanation.unsupported.length === 0;
  }
  byId("origin").textContent = "Model " + content.model.id + ", adapter " + content.model.adapter.slice(0, 12) + ", values read as " + content.units + (content.results.length > 1 ? ". Only the first of " + content.results.length + " flows is shown." : ".");
  byId("result").hidden = false;
}

async function send(event) {
  event.preventDefault();
  const way = event.submitter ? event.submitter.value : "explain";
  const buttons = [byId("explain"), byId("classify")];
  byId("error").hidden = true;
  byId("result").hidden = true;
  byId("state").textContent = way === "explain" ? "Reading the flow and writing an explanation." : "Reading the flow.";
  buttons.forEach((button) => { button.disabled = true; });
  try {
    const units = byId("units").value;
    show(await ask("/v1/" + way, units ? { text: byId("flow").value, units } : { text: byId("flow").value }));
  } catch (error) {
    fail(error);
  } finally {
    byId("state").textContent = "";
    buttons.forEach((button) => { button.disabled = false; });
  }
}

byId("flow-form").addEventListener("submit", send);
byId("example").addEventListener("click", () => {
  if (!model) return;
  byId("flow").value = JSON.stringify(model.example, null, 1);
  byId("units").value = model.units.accepted.length > 1 ? model.units.example : "";
});
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value.trim();
  byId("token").value = "";
  byId("error").hidden = true;
  describe();
});
describe();
