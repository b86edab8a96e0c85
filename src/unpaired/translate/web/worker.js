// Pixels to pixels, in a worker of its own: what unpaired/translate/tiling.py does, around ONNX Runtime Web.
// Planes are Float32Array [3 * H * W] in [-1, 1]; rgba is what a canvas holds.
'use strict';
const MAX_PIXELS = 1024 * 1024, MIN_STRIDES = 4, OVERLAP = 8, MIN_TILE_STRIDES = 16;
let ort, providers, models;
const sessions = [];

const unpack = async text => {
  const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
};

async function start(given) {
  const code = new Blob([await unpack(given.script)], {type: 'text/javascript'});
  ort = await import(URL.createObjectURL(code));
  ort.env.wasm.wasmBinary = (await unpack(given.binary)).buffer;
  ort.env.wasm.numThreads = 1;
  const gpu = given.webgpu && self.navigator.gpu && await navigator.gpu.requestAdapter().catch(() => null);
  providers = gpu ? ['webgpu', 'wasm'] : ['wasm'];
  models = given.models;
  return {provider: providers[0]};
}

async function opened(number) {
  if (!sessions[number]) {
    const bytes = await unpack(models[number].onnx);
    models[number].onnx = '';
    sessions[number] = await ort.InferenceSession.create(bytes, {executionProviders: providers});
  }
  return sessions[number];
}

// Numbers from N(0, 1) that follow from a seed (mulberry32, Box and Muller).
function normal(seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = state + 0x6D2B79F5 | 0;
    let t = Math.imul(state ^ state >>> 15, 1 | state);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 4294967296;
  };
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}

async function network(planes, height, width, asked) {
  const session = await opened(asked.model), about = models[asked.model].about, draw = normal(asked.seed || 0);
  const feeds = {};
  for (const name of session.inputNames) {
    const shape = [1, ...about.inputs[name]];
    if (name === 'images') feeds[name] = new ort.Tensor('float32', planes, [1, 3, height, width]);
    else if (name === 'class') feeds[name] = new ort.Tensor('int64', BigInt64Array.of(BigInt(asked.class)), [1]);
    else feeds[name] = new ort.Tensor('float32', Float32Array.from({length: shape.reduce((a, b) => a * b)}, draw), shape);
  }
  const found = await session.run(feeds, ['translated']);
  return found.translated.getData ? found.translated.getData() : found.translated.data;
}

// ---- any size: pad, cut, blend, crop

const even = x => { const r = Math.round(x); return r - x === 0.5 && r % 2 ? r - 1 : r; };  // as Python rounds

function padding(height, width, stride) {
  const up = n => Math.max(MIN_STRIDES * stride, Math.ceil(n / stride) * stride);
  const H = up(height), W = up(width), top = H - height >> 1, left = W - width >> 1;
  const fits = H - height - top < height && W - width - left < width;  // else the border is repeated
  const at = (i, n) => fits ? (i < 0 ? -i : i < n ? i : 2 * n - 2 - i) : Math.min(n - 1, Math.max(0, i));
  return {H, W, top, left, row: y => at(y - top, height), column: x => at(x - left, width)};
}

function tileSides(h, w, stride) {
  const most = Math.max(MAX_PIXELS, (MIN_TILE_STRIDES * stride) ** 2);
  if (h * w <= most) return [h, w];
  const down = n => Math.floor(n / stride) * stride, side = down(Math.sqrt(most));
  if (h <= side) return [h, Math.min(w, down(most / h))];
  return w <= side ? [Math.min(h, down(most / w)), w] : [side, side];
}

function starts(length, tile, stride) {
  if (tile >= length) return [0];
  const overlap = Math.max(stride, Math.floor(tile / OVERLAP)), count = Math.ceil((length - overlap) / (tile - overlap));
  return Array.from({length: count}, (_, i) => even(i * (length - tile) / (count - 1) / stride) * stride);
}

function weights(length, begin, tile) {
  const ramp = Math.max(1, Math.floor(tile / OVERLAP)), found = new Float32Array(tile).fill(1);
  for (let i = 0; i < ramp; i++) {
    const edge = 0.5 - 0.5 * Math.cos(Math.PI * (i + 0.5) / ramp);
    if (begin > 0) found[i] *= edge;
    if (begin + tile < length) found[tile - 1 - i] *= edge;
  }
  return found;
}

async function tiled(planes, H, W, stride, run, progress) {
  const [th, tw] = tileSides(H, W, stride);
  if (th === H && tw === W) return run(planes, H, W);
  const total = new Float32Array(3 * H * W), sums = new Float32Array(H * W);
  const rows = starts(H, th, stride), columns = starts(W, tw, stride);
  let done = 0;
  for (const top of rows) {
    for (const left of columns) {
      const part = new Float32Array(3 * th * tw);
      for (let k = 0; k < 3; k++) for (let y = 0; y < th; y++) {
        const from = (k * H + top + y) * W + left;
        part.set(planes.subarray(from, from + tw), (k * th + y) * tw);
      }
      const made = await run(part, th, tw), down = weights(H, top, th), across = weights(W, left, tw);
      for (let y = 0; y < th; y++) for (let x = 0; x < tw; x++) {
        const weight = down[y] * across[x], to = (top + y) * W + left + x;
        sums[to] += weight;
        for (let k = 0; k < 3; k++) total[k * H * W + to] += weight * made[(k * th + y) * tw + x];
      }
      progress(++done / (rows.length * columns.length));
    }
  }
  for (let i = 0; i < total.length; i++) total[i] /= sums[i % (H * W)];
  return total;
}

// ---- one size alone: bicubic there and back, with antialiasing where it shrinks, as PyTorch does it

function taps(from, to) {
  const scale = from / to, wide = Math.max(1, scale), found = [];
  const cubic = x => (x = Math.abs(x)) < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
  for (let i = 0; i < to; i++) {
    const centre = (i + 0.5) * scale, low = Math.max(0, Math.floor(centre - 2 * wide + 0.5));
    const high = Math.min(from, Math.floor(centre + 2 * wide + 0.5)), w = [];
    for (let j = low; j < high; j++) w.push(cubic((j - centre + 0.5) / wide));
    const sum = w.reduce((a, b) => a + b);
    found.push([low, w.map(v => v / sum)]);
  }
  return found;
}

function resized(planes, h, w, H, W) {
  const across = taps(w, W), down = taps(h, H), middle = new Float32Array(3 * h * W), found = new Float32Array(3 * H * W);
  for (let r = 0; r < 3 * h; r++) for (let x = 0; x < W; x++) {
    const [low, t] = across[x];
    let sum = 0;
    for (let j = 0; j < t.length; j++) sum += t[j] * planes[r * w + low + j];
    middle[r * W + x] = sum;
  }
  for (let k = 0; k < 3; k++) for (let y = 0; y < H; y++) for (let x = 0; x < W; x++) {
    const [low, t] = down[y];
    let sum = 0;
    for (let j = 0; j < t.length; j++) sum += t[j] * middle[(k * h + low + j) * W + x];
    found[(k * H + y) * W + x] = Math.min(1, Math.max(-1, sum));
  }
  return found;
}

// ---- the seam: rgba in, rgba out, of one size

async function translate({rgba, width, height, asked}, progress) {
  const {stride, fixed_size: fixed} = models[asked.model].about, run = (p, h, w) => network(p, h, w, asked);
  const {H, W, top, left, row, column} = padding(height, width, fixed ? 1 : stride);
  let planes = new Float32Array(3 * H * W);
  for (let y = 0; y < H; y++) for (let x = 0; x < W; x++) {
    const from = 4 * (row(y) * width + column(x)), to = y * W + x;
    for (let k = 0; k < 3; k++) planes[k * H * W + to] = rgba[from + k] / 127.5 - 1;
  }
  if (fixed) {
    const square = await run(resized(planes, H, W, fixed, fixed), fixed, fixed);
    planes = resized(square, fixed, fixed, H, W);
  } else planes = await tiled(planes, H, W, stride, run, progress);
  const out = new Uint8ClampedArray(4 * width * height).fill(255);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
    for (let k = 0; k < 3; k++) {
      const value = planes[(k * H + y + top) * W + x + left];
      if (!Number.isFinite(value)) throw new Error('the model’s output for this picture is not finite');
      out[4 * (y * width + x) + k] = even(Math.min(1, Math.max(-1, value)) * 127.5 + 127.5);
    }
  }
  return {rgba: out, width, height};
}

onmessage = async ({data: {id, kind, value}}) => {
  const answer = message => postMessage({id, ...message});
  try {
    const done = await (kind === 'start' ? start(value) : translate(value, share => answer({share})));
    answer({done});
  } catch (error) {
    answer({failed: String(error && error.message || error)});
  }
};
