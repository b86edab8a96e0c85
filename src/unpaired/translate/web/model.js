// What the page asks for pictures: `openModel()` -> {directions, sizes, random, translate}. This one has the model in
// the page and runs it in a worker; another (a server's) needs the same four names.
'use strict';
async function openModel() {
  const content = id => document.getElementById(id).textContent;
  const about = JSON.parse(content('about'));
  const worker = new Worker(URL.createObjectURL(new Blob([content('worker')], {type: 'text/javascript'})));
  const waiting = new Map();
  let count = 0;
  worker.onmessage = ({data: {id, done, failed, share}}) => {
    const {resolve, reject, progress} = waiting.get(id);
    if (share !== undefined) return progress(share);
    waiting.delete(id);
    failed === undefined ? resolve(done) : reject(new Error(failed));
  };
  worker.onerror = event => {
    for (const {reject} of waiting.values()) reject(new Error(event.message || 'the browser stopped the model'));
    waiting.clear();
  };
  const ask = (kind, value, progress = () => {}, moved = []) => new Promise((resolve, reject) => {
    waiting.set(++count, {resolve, reject, progress});
    worker.postMessage({id: count, kind, value}, moved);
  });
  const models = about.models.map((one, number) => ({about: one, onnx: content(`model-${number}`)}));
  const {provider} = await ask('start', {
    script: content('runtime-script'), binary: content('runtime-binary'), webgpu: about.webgpu, models,
  });
  return {
    provider, ...about,
    // {rgba, width, height} -> the same of the translation; `asked` is an entry of `directions`, with a seed
    translate: ({rgba, width, height}, asked, progress) =>
      ask('translate', {rgba, width, height, asked}, progress, [rgba.buffer]),
  };
}
