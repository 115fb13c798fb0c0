'use strict';
// Draws the curves of a run as vector pictures, and lists its pictures.

const SVG = 'http://www.w3.org/2000/svg';
const SIZE = { width: 560, height: 300, left: 52, right: 12, top: 34, bottom: 34 };

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Round values that divide the range into about `count` parts. */
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(factor => factor * power).find(step => step >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step / 1e6; value += step) found.push(value);
  return found;
}

function plot(title, series) {
  const points = series.flatMap(line => line.points);
  const [lastStep, low, high] = [
    Math.max(1, ...points.map(point => point[0])),
    Math.min(0, ...points.map(point => point[1])),
    Math.max(1e-9, ...points.map(point => point[1])),
  ];
  const { width, height, left, right, top, bottom } = SIZE;
  const x = step => left + step / lastStep * (width - left - right);
  const y = value => height - bottom - (value - low) / (high - low) * (height - top - bottom);
  const svg = element('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': title });
  svg.append(element('text', { x: left, y: 14, 'font-weight': 600 }, title));
  for (const value of ticks(low, high, 5)) {
    svg.append(element('line', { x1: left, x2: width - right, y1: y(value), y2: y(value), stroke: '#8884' }));
    svg.append(element('text', { x: left - 6, y: y(value) + 4, 'text-anchor': 'end' }, String(+value.toPrecision(4))));
  }
  for (const step of ticks(0, lastStep, 5)) {
    svg.append(element('text', { x: x(step), y: height - 16, 'text-anchor': 'middle' }, String(step)));
  }
  svg.append(element('text', { x: width - right, y: height - 2, 'text-anchor': 'end' }, 'step'));
  let legend = left;
  for (const { name, color, points } of series) {
    const place = points.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(' ');
    svg.append(element('polyline', { points: place, fill: 'none', stroke: color, 'stroke-width': 1.8 }));
    if (points.length < 40) {
      for (const [step, value] of points) svg.append(element('circle', { cx: x(step), cy: y(value), r: 3, fill: color }));
    }
    svg.append(element('line', { x1: legend, x2: legend + 14, y1: 25, y2: 25, stroke: color, 'stroke-width': 3 }));
    svg.append(element('text', { x: legend + 18, y: 29 }, name));
    legend += 30 + 6.6 * name.length;
  }
  return svg;
}

/** One line a key of the records that have a number there. */
function lines(records, keys) {
  const value = (record, key) => key.split('.').reduce((part, name) => part?.[name], record);
  return keys
    .map(([key, name, color, factor = 1]) => ({
      name, color,
      points: records.filter(record => Number.isFinite(value(record, key))).map(record => [record.global_step, factor * value(record, key)]),
    }))
    .filter(line => line.points.length);
}

function showRun(run) {
  const at = id => document.getElementById(id);
  at('run').hidden = false;
  at('run-name').textContent = `Run ${run.name}`;
  at('run-facts').textContent = `${run.num_steps} steps, ${run.evaluations.length} evaluations, ${run.pictures.length} pictures`;
  const plots = [
    ['training loss', lines(run.steps, [['loss', 'loss', '#888'], ['loss_mask', 'BCE', '#1e78d8'], ['loss_dice', 'dice', '#d9480f']])],
    ['images per second', lines(run.steps, [['images_per_second', 'images per second', '#1e78d8']])],
    ['gradient norm', lines(run.steps, [['grad_norm', 'gradient norm', '#1e78d8']])],
  ];
  // A plot for each prompt: their scores are of different questions.
  const question = line => [line.split, line.protocol].filter(Boolean).join(', ');
  for (const title of new Set(run.evaluations.map(question))) {
    const records = run.evaluations.filter(line => question(line) === title);
    plots.push([`${title}: IoU, %`, lines(records, [
      ['sam.mask_iou', 'SAM', '#d97706', 100], ['hq.mask_iou', 'HQ-SAM', '#1e78d8', 100],
      ['sam.boundary_iou', 'SAM boundary', '#eab36b', 100], ['hq.boundary_iou', 'HQ-SAM boundary', '#7db4ee', 100],
    ])]);
  }
  at('curves').append(...plots.filter(([, series]) => series.length).map(([title, series]) => plot(title, series)));
  for (const { title, about, pictures } of groups(run.pictures)) showPictures(title, about, pictures);
}

/** Pictures of each evaluation, the newest epoch first, then the others. */
function groups(pictures) {
  const epochs = new Map();
  const others = [];
  for (const path of pictures) {
    const [, split, epoch, name] = /^eval\/(.+)-epoch-(\d+)\/([^/]+)$/.exec(path) ?? [];
    if (!name) {
      others.push({ path, caption: path });
      continue;
    }
    const title = `${split}, after epoch ${+epoch}`;
    if (!epochs.has(title)) epochs.set(title, { title, epoch: +epoch, pictures: [] });
    epochs.get(title).pictures.push({ path, caption: name.replace(/^\d+-|\.\w+$/g, '') });
  }
  const about = 'From left to right: annotated mask, SAM, HQ-SAM.';
  const newest = [...epochs.values()].sort((left, right) => right.epoch - left.epoch);
  const found = newest.map(group => ({ ...group, about }));
  return others.length ? [...found, { title: 'Other pictures', about: '', pictures: others }] : found;
}

function showPictures(title, about, pictures) {
  const heading = Object.assign(document.createElement('h3'), { textContent: title });
  const text = Object.assign(document.createElement('p'), { textContent: about });
  const gallery = Object.assign(document.createElement('div'), { className: 'gallery' });
  gallery.append(...pictures.map(({ path, caption }) => {
    const figure = document.createElement('figure');
    const picture = Object.assign(new Image(), { loading: 'lazy', alt: caption });
    picture.src = '/run/' + path.split('/').map(encodeURIComponent).join('/');
    const text = Object.assign(document.createElement('figcaption'), { textContent: caption });
    figure.append(picture, text);
    return figure;
  }));
  document.getElementById('pictures').append(heading, ...(about ? [text] : []), gallery);
}
