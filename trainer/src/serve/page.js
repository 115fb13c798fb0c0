'use strict';
// Opens a picture, collects clicks and boxes, and draws both masks. Coordinates are pixels of the
// picture, so that they mean the same at every width of the page.

const at = id => document.getElementById(id);
const canvases = [at('sam'), at('hq')];
const DRAG = 6; // A shorter way of the pointer, in pixels of the screen, is a click.
let picture = null; // { id, width, height, bitmap }
let prompts = []; // { box: [x0, y0, x1, y1] }, { point: [x, y, label] } or { refine: id of an answer }, in order of entry
let masks = {}; // name of the canvas -> bitmap
let shown = null; // id of the answer whose masks are shown
let drag = null;
let asked = 0; // number of the last request: answers to earlier ones are late

function say(text, isProblem = false) {
  at('status').textContent = text;
  at('status').classList.toggle('problem', isProblem);
}

async function fetched(path, options) {
  const response = await fetch(path, options);
  if (!response.ok) throw new Error((await response.text()).trim() || response.statusText);
  return response;
}

async function open(file) {
  if (!file) return;
  const number = ++asked;
  say(`Opening ${file.name} ...`);
  try {
    const response = await fetched('/api/images', { method: 'POST', headers: { 'Content-Type': file.type || 'application/octet-stream' }, body: file });
    const answer = await response.json();
    const bitmap = await createImageBitmap(file);
    if (number !== asked) return;
    picture = { ...answer, bitmap };
    prompts = [];
    show({}, null);
    for (const canvas of canvases) {
      canvas.width = picture.width;
      canvas.height = picture.height;
    }
    at('tools').hidden = at('views').hidden = false;
    for (const name of ['sam', 'hq']) at(`${name}-facts`).textContent = '';
    say('Click on an object, or drag a box around it.');
    draw();
  } catch (error) {
    say(`${file.name}: ${error.message}`, true);
  }
}

function show(found, id) {
  masks = found;
  shown = id;
  at('refine').disabled = id === null;
}

function prompt() {
  const boxes = prompts.filter(entry => entry.box);
  return {
    box: boxes.length ? boxes.at(-1).box : null,
    points: prompts.filter(entry => entry.point).map(entry => entry.point),
    refine: prompts.findLast(entry => entry.refine)?.refine ?? null,
    sum: Boolean(document.querySelector('[name=sum]:checked').value),
    multimask: at('multimask').checked,
  };
}

async function predict() {
  const number = ++asked;
  if (!picture) return;
  if (!prompts.length) {
    show({}, null);
    for (const name of ['sam', 'hq']) at(`${name}-facts`).textContent = '';
    say('Click on an object, or drag a box around it.');
    return draw();
  }
  draw();
  say('Predicting ...');
  try {
    const started = performance.now();
    const response = await fetched(`/api/images/${picture.id}/masks`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(prompt()) });
    const answer = await response.json();
    const found = {};
    for (const name of ['sam', 'hq']) {
      found[name] = new Image();
      found[name].src = answer[name].png;
      await found[name].decode();
    }
    if (number !== asked) return;
    show(found, answer.id);
    for (const name of ['sam', 'hq']) {
      const share = 100 * answer[name].area / (picture.width * picture.height);
      at(`${name}-facts`).textContent = `${share.toFixed(1)} % of the picture, predicted IoU ${answer[name].score.toFixed(3)}`;
    }
    say(`${((performance.now() - started) / 1000).toFixed(2)} s`);
    draw();
  } catch (error) {
    if (number === asked) say(error.message, true);
  }
}

function draw() {
  for (const canvas of canvases) {
    const context = canvas.getContext('2d');
    context.drawImage(picture.bitmap, 0, 0, picture.width, picture.height);
    if (masks[canvas.id]) context.drawImage(masks[canvas.id], 0, 0);
    const unit = picture.width / Math.max(canvas.clientWidth, 1);
    for (const entry of [...prompts, ...(drag && drag.box ? [{ box: drag.box }] : [])]) {
      if (entry.box) drawBox(context, entry.box, unit);
      else if (entry.point) drawPoint(context, entry.point, unit);
    }
  }
}

function drawBox(context, [x0, y0, x1, y1], unit) {
  for (const [color, width] of [['#000', 4], ['#fff', 2]]) {
    context.strokeStyle = color;
    context.lineWidth = width * unit;
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }
}

function drawPoint(context, [x, y, label], unit) {
  context.beginPath();
  context.arc(x, y, 7 * unit, 0, 2 * Math.PI);
  context.fillStyle = label ? '#15803d' : '#b91c1c';
  context.fill();
  context.lineWidth = 2 * unit;
  context.strokeStyle = '#fff';
  context.stroke();
  context.beginPath();
  context.moveTo(x - 4 * unit, y);
  context.lineTo(x + 4 * unit, y);
  if (label) {
    context.moveTo(x, y - 4 * unit);
    context.lineTo(x, y + 4 * unit);
  }
  context.stroke();
}

function place(event, canvas) {
  const frame = canvas.getBoundingClientRect();
  const inside = (value, limit) => Math.min(Math.max(value, 0), limit);
  return [
    inside((event.clientX - frame.left) / frame.width * picture.width, picture.width),
    inside((event.clientY - frame.top) / frame.height * picture.height, picture.height),
  ];
}

for (const canvas of canvases) {
  canvas.addEventListener('contextmenu', event => event.preventDefault());
  canvas.addEventListener('pointerdown', event => {
    canvas.setPointerCapture(event.pointerId);
    drag = { start: place(event, canvas), screen: [event.clientX, event.clientY], isRight: event.button === 2, box: null };
  });
  canvas.addEventListener('pointermove', event => {
    if (!drag) return;
    const isFar = Math.hypot(event.clientX - drag.screen[0], event.clientY - drag.screen[1]) > DRAG;
    if (!isFar && !drag.box) return;
    const [[x0, y0], [x1, y1]] = [drag.start, place(event, canvas)];
    drag.box = [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
    draw();
  });
  canvas.addEventListener('pointercancel', () => { drag = null; draw(); });
  canvas.addEventListener('pointerup', event => {
    if (!drag) return;
    const { start, box, isRight } = drag;
    drag = null;
    const chosen = Number(document.querySelector('[name=label]:checked').value);
    if (box && box[2] > box[0] && box[3] > box[1]) {
      // One object, so one box: a new one takes the place of the last.
      prompts = prompts.filter(entry => !entry.box);
      prompts.push({ box });
    } else {
      prompts.push({ point: [...start, isRight || event.shiftKey ? 0 : chosen] });
    }
    predict();
  });
}

at('file').addEventListener('change', event => { open(event.target.files[0]); event.target.value = ''; });
for (const kind of ['dragover', 'dragleave', 'drop']) {
  addEventListener(kind, event => {
    event.preventDefault();
    at('drop').classList.toggle('over', kind === 'dragover');
    if (kind === 'drop') open(event.dataTransfer.files[0]);
  });
}
at('refine').addEventListener('click', () => {
  if (shown === null) return;
  prompts.push({ refine: shown });
  predict();
});
at('undo').addEventListener('click', () => { prompts.pop(); predict(); });
at('clear').addEventListener('click', () => { prompts = []; predict(); });
for (const input of [at('multimask'), ...document.querySelectorAll('[name=sum]')]) {
  input.addEventListener('change', predict);
}
addEventListener('resize', () => { if (picture) draw(); });

async function start() {
  const about = await (await fetched('/api/about')).json();
  at('model').textContent = about.model;
  if (about.has_run) showRun(await (await fetched('/api/run')).json());
}
start().catch(error => say(error.message, true));
