// The page: pictures in, cards with a slider out. Knows nothing of models but openModel() of model.js.
'use strict';
const MOST_PIXELS = 100e6, MOST_BYTES = 200e6, WHOLE = 4096, LIVE = 256;
const $ = id => document.getElementById(id);
const say = text => { $('status').textContent = text; };
const make = (tag, values = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), values);
  element.append(...children);
  return element;
};
let model, queue = Promise.resolve(), epoch = 0, waiting = 0, finished = 0, live = null;
const cards = new Set();

const asked = () => ({...model.directions[$('direction').value], seed: Number($('seed').value) || 0});

function canvas(source, width, height, most) {
  const scale = Math.min(1, most / Math.max(width, height)), fit = n => Math.max(1, Math.round(n * scale));
  const found = make('canvas', {width: fit(width), height: fit(height)});
  const context = found.getContext('2d', {willReadFrequently: true});
  context.imageSmoothingQuality = 'high';
  context.fillStyle = '#fff';  // under what is transparent
  context.fillRect(0, 0, found.width, found.height);
  context.drawImage(source, 0, 0, found.width, found.height);
  return found;
}

async function opened(blob) {  // a canvas, upright; the browser's own decoder turns it by its EXIF tag
  if (blob.size > MOST_BYTES) throw new Error('larger than 200 MB');
  if (blob.type === 'image/svg+xml') throw new Error('a drawing, not a picture of pixels');
  const url = URL.createObjectURL(blob), image = new Image();
  try {
    await new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = () => reject(new Error('no picture that this browser can read'));
      image.src = url;
    });
    const {naturalWidth: width, naturalHeight: height} = image;
    if (!width || width * height > MOST_PIXELS) throw new Error(`${width} × ${height} pixels; up to 100 million are taken`);
    const bitmap = await createImageBitmap(blob, {imageOrientation: 'from-image'})  // an <img> shows a torn one, too
      .catch(() => { throw new Error('damaged, or larger than this browser can hold'); });
    const found = canvas(bitmap, bitmap.width, bitmap.height, Number($('side').value));
    bitmap.close();
    return found;
  } finally {
    URL.revokeObjectURL(url);
  }
}

const pixels = source => {
  const {data, width, height} = source.getContext('2d').getImageData(0, 0, source.width, source.height);
  return {rgba: data, width, height};
};

function drawn({rgba, width, height}) {
  const found = make('canvas', {width, height});
  found.getContext('2d').putImageData(new ImageData(rgba, width, height), 0, 0);
  return found;
}

const png = source => new Promise((resolve, reject) =>
  source.toBlob(blob => blob ? resolve(blob) : reject(new Error('the browser could not write the picture')), 'image/png'));

// ---- cards

function card(blob, name) {
  const found = {blob, name, urls: [], box: make('figure', {className: 'card'}, make('figcaption', {textContent: `${name}: waiting`}))};
  found.box.dataset.state = 'waiting';
  cards.add(found);
  $('results').prepend(found.box);
  enqueue(found);
}

function enqueue(one) {
  const mine = epoch;
  waiting++;
  queue = queue.then(async () => {
    if (mine !== epoch || !cards.has(one)) return;
    try {
      await work(one, asked(), mine);
    } catch (error) {
      if (mine === epoch) show(one, 'failed', make('figcaption', {textContent: `${one.name}: ${error.message}`}));
    }
    if (mine === epoch) told(++finished);
  });
}

function told() {
  document.body.dataset.busy = finished < waiting;
  const failed = [...cards].filter(one => one.box.dataset.state === 'failed').length;
  say(finished < waiting ? `${finished} of ${waiting} …`
    : `${finished - failed} translated${failed ? `, ${failed} could not be` : ''}.`);
  $('save-all').disabled = finished < waiting || !cards.size;
  $('clear').disabled = !cards.size;
}

function show(one, state, ...children) {
  one.box.replaceChildren(...children);
  one.box.dataset.state = state;
}

async function work(one, direction, mine) {
  const before = await opened(one.blob);
  const began = performance.now();
  const result = await model.translate(pixels(before), direction, share => {
    if (mine === epoch) say(`${one.name}: ${Math.round(100 * share)} %`);
  });
  const ms = performance.now() - began;
  const blobs = await Promise.all([png(before), png(drawn(result))]);
  if (mine !== epoch || !cards.has(one)) return;
  one.urls.forEach(URL.revokeObjectURL);
  one.urls = blobs.map(blob => URL.createObjectURL(blob));
  one.result = blobs[1];
  one.file = `${one.name.replace(/\.[^.]*$/, '')}-${direction.target}.png`;
  const size = {width: before.width, height: before.height};
  const slider = make('input', {type: 'range', min: 0, max: 100, value: 50});
  slider.setAttribute('aria-label', `${one.name}: ${direction.source} on the left, ${direction.target} on the right`);
  const pair = make('div', {className: 'pair'},
    make('img', {src: one.urls[0], alt: `${one.name}, as it came`, ...size}),
    make('img', {src: one.urls[1], alt: `${one.name} as ${direction.target}`, className: 'after', ...size}),
    make('div', {className: 'line'}), slider);
  slider.oninput = () => pair.style.setProperty('--cut', `${slider.value}%`);
  const caption = make('figcaption', {}, `${one.name} · ${size.width} × ${size.height} · ${(ms / 1000).toFixed(2)} s `,
    make('a', {textContent: 'Save', href: one.urls[1], download: one.file}));
  one.ms = ms;
  show(one, 'done', pair, caption);
}

function again() {  // another direction, size or seed: all pictures anew
  epoch++;
  waiting = finished = 0;
  for (const one of cards) enqueue(one);
  told();
}

function take(files) {
  for (const file of files) card(file, file.name.replace(/[\u0000-\u001f\u202a-\u202e\u2066-\u2069]/g, '') || 'picture');
  if (files.length) told();
}

// ---- all of them as one zip: stored, not compressed, since they are PNG

const TABLE = Uint32Array.from({length: 256}, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xEDB88320 ^ n >>> 1 : n >>> 1;
  return n >>> 0;
});
const crc = bytes => ~bytes.reduce((sum, byte) => TABLE[(sum ^ byte) & 255] ^ sum >>> 8, -1) >>> 0;
const numbers = (...given) => {  // [value, bytes] in the order of the format, little end first
  const found = [];
  for (const [value, size] of given) for (let i = 0; i < size; i++) found.push(Math.floor(value / 256 ** i) & 255);
  return Uint8Array.from(found);
};

async function zip(files) {
  const parts = [], directory = [];
  let at = 0, listed = 0;
  for (const [name, blob] of files) {
    const bytes = new Uint8Array(await blob.arrayBuffer()), path = new TextEncoder().encode(name);
    const same = [[20, 2], [0x800, 2], [0, 2], [0, 2], [33, 2], [crc(bytes), 4], [bytes.length, 4], [bytes.length, 4], [path.length, 2], [0, 2]];
    const head = numbers([0x04034b50, 4], ...same);
    parts.push(head, path, blob);
    directory.push(numbers([0x02014b50, 4], [20, 2], ...same, [0, 2], [0, 2], [0, 2], [0, 4], [at, 4]), path);
    at += head.length + path.length + bytes.length;
    listed += 46 + path.length;
  }
  const count = files.length;
  const end = numbers([0x06054b50, 4], [0, 2], [0, 2], [count, 2], [count, 2], [listed, 4], [at, 4], [0, 2]);
  return new Blob([...parts, ...directory, end], {type: 'application/zip'});
}

async function saveAll() {
  const used = new Set(), files = [];
  for (const one of cards) if (one.box.dataset.state === 'done') {
    let name = one.file.replace(/[\/\\:*?"<>|\u0000-\u001f]/g, '_');
    for (let n = 2; used.has(name); n++) name = `${n}-${one.file}`;
    used.add(name);
    files.push([name, one.result]);
  }
  if (!files.length) return say('Nothing to save.');
  const url = URL.createObjectURL(await zip(files));
  make('a', {href: url, download: 'translated.zip'}).click();
  setTimeout(() => URL.revokeObjectURL(url), 60e3);
}

// ---- webcam

async function camera() {
  if (live) return stop();
  try {
    live = await navigator.mediaDevices.getUserMedia({video: {facingMode: 'environment'}});
  } catch (error) {
    return say(`No webcam: ${error.message}.`);
  }
  const video = $('video');
  video.srcObject = live;
  await video.play();
  $('live').hidden = false;
  $('camera').textContent = 'Stop the webcam';
  const times = [];
  while (live && video.videoWidth) {
    const began = performance.now();
    const frame = canvas(video, video.videoWidth, video.videoHeight, Math.min(LIVE, Number($('side').value)));
    try {
      const found = await model.translate(pixels(frame), asked());
      Object.assign($('frame'), {width: found.width, height: found.height});
      $('frame').getContext('2d').putImageData(new ImageData(found.rgba, found.width, found.height), 0, 0);
    } catch (error) {
      say(error.message);
      return stop();
    }
    times.push(performance.now() - began);
    const last = times.slice(-10);
    $('rate').textContent = `${(1000 * last.length / last.reduce((a, b) => a + b)).toFixed(1)} pictures a second`;
    await new Promise(requestAnimationFrame);
  }
}

function stop() {
  live?.getTracks().forEach(track => track.stop());
  live = null;
  $('live').hidden = true;
  $('camera').textContent = 'Webcam';
}

async function keep() {
  const video = $('video');
  card(await png(canvas(video, video.videoWidth, video.videoHeight, WHOLE)), `webcam-${cards.size + 1}.png`);
}

// ---- start

async function begin() {
  say('Opening the model …');
  try {
    model = await openModel();
  } catch (error) {
    document.body.dataset.state = 'failed';
    return say(`The model cannot be opened here: ${error.message}. A current Chrome, Edge, Firefox or Safari is needed.`);
  }
  model.directions.forEach((d, number) => $('direction').add(new Option(`${d.source} → ${d.target}`, number)));
  for (const side of [...model.sizes, WHOLE]) {
    $('side').add(new Option(side === WHOLE ? 'as it is' : `${side} pixels`, side, side === model.best, side === model.best));
  }
  $('seed').parentElement.hidden = !model.random;
  for (const id of ['direction', 'side', 'seed']) $(id).onchange = again;
  $('files').onchange = ({target}) => { take([...target.files]); target.value = ''; };
  $('camera').hidden = !navigator.mediaDevices;
  $('camera').onclick = camera;
  $('keep').onclick = keep;
  $('save-all').onclick = saveAll;
  $('clear').onclick = () => {
    epoch++;
    waiting = finished = 0;
    for (const one of cards) { one.urls.forEach(URL.revokeObjectURL); one.box.remove(); }
    cards.clear();
    told();
  };
  document.ondragover = event => { event.preventDefault(); document.body.classList.add('over'); };
  document.ondragleave = event => { if (!event.relatedTarget) document.body.classList.remove('over'); };
  document.ondrop = event => {
    event.preventDefault();
    document.body.classList.remove('over');
    take([...event.dataTransfer.files]);
  };
  document.onpaste = ({clipboardData}) => take([...clipboardData.files]);
  $('controls').disabled = false;
  document.body.dataset.state = 'ready';
  document.body.dataset.provider = model.provider;
  say('Ready.');
}
begin();
