// Controls, and how the page begins.

function choose(image) {
  state.image = image;
  state.painted = null;
  $("unpaint").hidden = true;
  $("heads").replaceChildren();
  refresh();
  if (!given) findNear();
}

async function upload(file) {
  if (!file) return;
  trouble("");
  if (file.size > 20 * 1024 ** 2) return trouble(`${file.name}: more than 20 MB`);
  try {
    const name = encodeURIComponent(file.name || "pasted.png");
    choose((await ask("/api/image", file, { "x-name": name })).id);
  } catch (error) {
    trouble(`${file.name || "image"}: ${error.message}`);
  }
}

function sample(index) {
  const count = given ? given.images.length : model.samples;
  const found = ((index % count) + count) % count;
  $("sample").value = found;
  choose(found);
}

// The nearest ratio that a mask has, or that this file holds.
function snapped(ratio) {
  const few = given ? given.ratios[state.mask] : state.mask === "grid" ? model.grid_ratios : null;
  if (!few) return ratio;
  return few.reduce((a, b) => Math.abs(b - ratio) < Math.abs(a - ratio) ? b : a);
}

function maskChanged() {
  state.ratio = snapped(state.ratio);
  state.painted = null;
  $("unpaint").hidden = true;
  $("ratio").value = 100 * state.ratio;
  $("ratio-value").textContent = percent(state.ratio);
  $("ratio").setAttribute("aria-valuetext", `${percent(state.ratio)} hidden`);
  $("seed").textContent = state.seed;
  refresh();
}

function masks() {
  for (const name of given ? Object.keys(given.ratios) : model.masks) {
    const label = element("label"), radio = element("input");
    radio.type = "radio";
    radio.name = "mask";
    radio.value = name;
    radio.checked = name === state.mask;
    radio.addEventListener("change", () => { state.mask = name; maskChanged(); });
    label.append(radio, document.createTextNode(name));
    $("masks").append(label);
  }
  $("ratio").addEventListener("input", () => {
    state.ratio = snapped($("ratio").value / 100);
    maskChanged();
  });
  $("reseed").addEventListener("click", () => {
    state.seed = given ? given.seeds[(given.seeds.indexOf(state.seed) + 1) % given.seeds.length]
      : state.seed + 1;
    maskChanged();
  });
  $("unpaint").addEventListener("click", maskChanged);
}

function steps() {
  const saved = model.steps;
  $("steps").hidden = Boolean(given) || saved.length < 2;
  $("step").max = $("step").value = Math.max(0, saved.length - 1);
  const told = () => {
    const step = saved[$("step").value];
    $("step-value").textContent = step === undefined ? "" : step.toLocaleString("en");
    $("step").setAttribute("aria-valuetext", `step ${step}`);
    state.step = $("step").value == saved.length - 1 ? null : step;
  };
  $("step").addEventListener("input", () => { told(); refresh(); });
  told();
}

function bands() {
  const many = model.channels;
  $("bands").hidden = Boolean(given) || many === 1 || many === 3;
  if ($("bands").hidden) return;
  const places = ["red", "green", "blue"].map((colour, i) => {
    const label = element("label", `${colour} `), select = element("select");
    for (const band of model.bands) select.append(new Option(band, band));
    select.value = model.shown[Math.min(i, model.shown.length - 1)];
    label.append(select);
    $("band-places").append(label);
    return { label, select };
  });
  const told = () => {
    const count = +$("shown-as").value;
    places.forEach(({ label }, i) => { label.hidden = i >= count; });
    places[0].label.firstChild.textContent = count === 1 ? "band " : "red ";
    state.bands = places.slice(0, count).map(({ select }) => +select.value);
  };
  $("shown-as").value = model.shown.length;
  told();
  $("bands").addEventListener("change", () => { told(); refresh(); });
}

function images() {
  const count = given ? given.images.length : model.samples;
  $("samples").hidden = !count;
  $("l-sample").textContent = given ? "one of the images in this file"
    : `or one of ${model.samples.toLocaleString("en")} ${model.about_samples}`;
  $("sample").max = count - 1;
  $("sample").addEventListener("change", () => sample(Math.trunc($("sample").value) || 0));
  $("before").addEventListener("click", () => sample(+$("sample").value - 1));
  $("after").addEventListener("click", () => sample(+$("sample").value + 1));
  $("any").addEventListener("click", () => sample(Math.floor(Math.random() * count)));
  if (given) return;
  $("file").addEventListener("change", () => { upload($("file").files[0]); $("file").value = ""; });
  for (const name of ["dragover", "dragleave", "drop"])
    document.addEventListener(name, (event) => {
      event.preventDefault();
      document.body.classList.toggle("over", name === "dragover");
      if (name === "drop") upload(event.dataTransfer.files[0]);
    });
  document.addEventListener("paste", (event) => upload(event.clipboardData.files[0]));
}

async function begin() {
  if (location.search) history.replaceState(null, "", location.pathname);  // the token: not for show
  document.body.classList.toggle("static", Boolean(given));
  try {
    model = given ? given.about : await ask("/api/model");
  } catch (error) {
    $("what").textContent = "";
    return trouble(error.message);
  }
  const [h, w] = model.size, [p, q] = model.patch;
  $("what").textContent = `${model.what}: ${h}x${w} px, patches of ${p}x${q}, ${model.channels} `
    + `channel${model.channels > 1 ? "s" : ""}, target ${model.target}.`
    + (given ? " This file holds its masks; nothing is computed." : " Nothing leaves this machine.");
  boards = {};
  for (const name of ["original", "masked", "output", "pasted", "error"])
    boards[name] = new Board($(`c-${name}`), model);
  state.mask = given ? Object.keys(given.ratios)[0] : model.mask;
  state.ratio = model.ratio;
  $("cheating").hidden = !model.normalised;
  $("cheat").addEventListener("change", () => { state.cheat = $("cheat").checked; refresh(); });
  $("copy").addEventListener("click", async () => {
    await navigator.clipboard.writeText($("command").textContent);
    $("copied").textContent = "copied";
  });
  masks();
  steps();
  bands();
  images();
  if (given) for (const name of ["original", "masked"]) {
    $(`c-${name}`).removeAttribute("tabindex");
    $(`c-${name}`).setAttribute("role", "img");
  } else {
    paintable();
    const look = boards.original;
    look.drag((id) => attend(id), () => {}, () => {});
    look.keys((id) => {
      draw(current());
      if (id !== null) $("live").textContent = look.place(id);
    }, (id) => attend(id));
  }
  for (const board of Object.values(boards)) board.patches([...Array(board.rows * board.cols).keys()]);
  maskChanged();
  if (given || model.samples) sample(0);
  else $("name").textContent = "Drop an image to begin.";
}

begin();
