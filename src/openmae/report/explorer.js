// The page: what is chosen, what is asked for, what is shown.

const given = JSON.parse($("data").textContent);
const state = { image: null, name: "", mask: null, ratio: .75, seed: 0, painted: null, step: null,
  cheat: false, bands: [], hidden: [], pictures: null };
let model, boards, painting = null, asking = false, again = false;

const percent = (share) => `${+(100 * share).toFixed(2)} %`;
const number = (value) => value >= .001 || value === 0 ? value.toFixed(4) : value.toExponential(2);

function trouble(words) {
  $("trouble").textContent = words;
}

async function ask(path, body, more) {
  const options = body === undefined ? {} : { method: "POST", body, headers: more };
  for (let tries = 0; ; tries++) {
    let answer;
    try {
      answer = await fetch(path, options);
    } catch {
      throw new Error("the demo does not answer. Is it still running?");
    }
    if (answer.ok) return answer.json();
    const told = await answer.json().catch(() => ({}));
    if (answer.status !== 503 || tries === 5) throw new Error(told.error || `error ${answer.status}`);
    await new Promise((done) => setTimeout(done, 1000 * (answer.headers.get("retry-after") || 1)));
  }
}

const post = (path, value) =>
  ask(path, JSON.stringify(value), { "content-type": "application/json" });

// What the page needs of a picture: from the server, or from what this file holds.
function answerTo() {
  if (!given) return post("/api/reconstruct", {
    image: state.image, mask: state.mask, ratio: state.ratio, seed: state.seed, step: state.step,
    hidden: state.painted ? [...state.painted].sort((a, b) => a - b) : [],
    cheat_scale: state.cheat, bands: state.bands });
  const image = given.images[state.image];
  const key = `${state.mask}|${state.ratio}|${state.seed}|${state.cheat ? 1 : 0}`;
  return { ...image, ...image.answers[key] };
}

// One question at a time; what was chosen meanwhile is asked afterwards.
async function refresh() {
  if (state.image === null) return;
  if (asking) { again = true; return; }
  asking = true;
  $("pictures").classList.add("busy");
  try {
    do {
      again = false;
      await show(await answerTo());
      trouble("");
    } while (again);
  } catch (error) {
    trouble(error.message);
  }
  asking = false;
  $("pictures").classList.remove("busy");
  if (again) refresh();
}

async function show(answer) {
  const names = ["original", "output", "error"];
  const [original, output, error] = await Promise.all(names.map((n) => loadImage(answer[n])));
  state.pictures = { original, output, error };
  state.hidden = answer.hidden;
  draw(new Set(answer.hidden));
  const rmse = answer.rmse;
  $("t-mse").textContent = rmse ? "masked-patch RMSE" : "masked-patch MSE";
  $("mse").textContent = rmse ? rmse[0].toPrecision(4) : number(answer.mse);
  $("fill").textContent = rmse ? rmse[1].toPrecision(4) : number(answer.mean_fill_mse);
  const how = answer.better >= 0 ? "better than mean fill by" : "worse than mean fill by";
  $("t-better").textContent = rmse ? `MSE ${how}` : how;
  $("better").textContent = `${Math.round(Math.abs(100 * answer.better))} %`;
  $("better").className = answer.better >= 0 ? "good" : "bad";
  const all = model.grid[0] * model.grid[1];
  $("count").textContent = `${answer.hidden.length} of ${all}`;
  $("live").textContent = `${answer.hidden.length} of ${all} patches hidden. ${answer.sentence}`;
  $("honest").className = answer.leaks ? "leaks" : "soft";
  $("honest").textContent = !model.normalised ? "" : answer.leaks
    ? `${answer.note}. Do not take this for what the model knows.`
    : "This model predicts normalised patches, without brightness and contrast: these are taken "
      + "from visible patches near by, never from the hidden ones.";
  $("error-scale").textContent = `0 black, ${answer.error_most.toPrecision(2)} yellow`;
  $("title").textContent = answer.title;
  $("name").textContent = answer.name;
  $("command").textContent = answer.command
    || "No command names a single image inside of this data set.";
  $("copy").disabled = !answer.command;
  const alt = { original: `original, ${answer.name}. Choose a patch to see its attention`,
    masked: given ? "masked" : "masked. Paint patches: arrow keys move, space hides or shows",
    output: "model output", pasted: "visible patches with the output pasted in",
    error: `error of the output, up to ${answer.error_most.toPrecision(2)}` };
  for (const [key, words] of Object.entries(alt)) $(`c-${key}`).setAttribute("aria-label", words);
}

function draw(hidden) {
  if (!state.pictures) return;
  const { original, output, error } = state.pictures;
  boards.original.image(original);
  boards.output.image(output);
  boards.error.image(error);
  boards.masked.image(original);
  boards.masked.patches(hidden);
  if (!given) boards.masked.lines();
  boards.pasted.image(original);
  boards.pasted.patches(hidden, output);
  for (const name of ["original", "masked"])
    if (boards[name].cursor !== null) boards[name].frame(boards[name].cursor);
}

// Painting.

function current() {
  return new Set(state.painted || state.hidden);
}

function change(ids, hide) {
  const set = current(), all = model.grid[0] * model.grid[1];
  for (const id of ids) if (hide) set.add(id); else set.delete(id);
  if (!set.size || set.size === all) {
    $("live").textContent = "At least one patch must be hidden and one visible.";
    return false;
  }
  state.painted = set;
  $("unpaint").hidden = false;
  draw(set);
  return true;
}

function paintable() {
  const board = boards.masked;
  board.drag((id) => {
    if (!state.pictures) return;
    painting = { hide: !current().has(id) };
    change([id], painting.hide);
  }, (id) => { if (painting) change([id], painting.hide); },
  () => { painting = null; refresh(); });
  const word = (id) => current().has(id) ? "hidden" : "visible";
  board.keys((id) => {
    draw(current());
    if (id !== null) $("live").textContent = `${board.place(id)}, ${word(id)}`;
  }, (id) => {
    if (!state.pictures || !change([id], !current().has(id))) return;
    draw(current());
    refresh();
  });
}

// Attention and neighbours.

async function attend(patch) {
  if (state.image === null) return;
  try {
    const body = { image: state.image, patch, step: state.step };
    const found = await post("/api/attention", body);
    const mean = found.heads[0].map((_, i) =>
      found.heads.reduce((sum, head) => sum + head[i], 0) / found.heads.length);
    const share = found.prefix.reduce((a, b) => a + b, 0) / found.prefix.length;
    const place = boards.original.place(patch);
    const cells = [mean, ...found.heads].map((weights, i) => {
      const figure = element("figure"), canvas = element("canvas");
      const most = Math.max(...weights) * weights.length;
      const words = `${i ? `head ${i}` : "mean of heads"}, up to ${most.toPrecision(2)}x even`;
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `attention of the patch in ${place}, ${words}`);
      drawWeights(canvas, model, state.pictures.original, weights, patch);
      figure.append(canvas, element("figcaption", words));
      return figure;
    });
    $("heads").replaceChildren(...cells);
    $("attention-help").textContent = `The patch in ${place}: bright is where it looks most, dark `
      + `least, each picture on its own scale; ${percent(share)} goes to the class and register tokens. Block `
      + `${model.blocks} of ${model.blocks}, nothing hidden.`;
    $("live").textContent = `attention of ${place} is shown below`;
  } catch (error) {
    trouble(error.message);
  }
}

async function findNear() {
  $("near").hidden = !model.neighbours;
  if (!model.neighbours || state.image === null) return;
  try {
    const found = await post("/api/neighbours", { image: state.image });
    $("near-list").replaceChildren(...found.map((one) => {
      const item = element("li");
      if (one.picture) {
        const image = element("img");
        image.alt = "";
        image.src = `/api/neighbour/${one.index}.png`;
        item.append(image);
      }
      item.append(element("span", one.name), element("span", one.similarity.toFixed(4), "soft"));
      return item;
    }));
  } catch (error) {
    trouble(error.message);
  }
}
