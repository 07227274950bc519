// /v1/status, every second: the figures in the header, and the view with all of them.

import { get } from './api.js';
import { chart } from './chart.js';
import { $, bytes, count, duration, figure, h, known, show } from './dom.js';
import { facts } from './notices.js';

const EVERY_MS = 1000;
/** After a failure the server is left alone for longer. */
const AFTER_FAILURE_MS = 5000;

const ms = (value) => (known(value) ? duration(value / 1e3) : '–');
const recall = (value) => (known(value) ? Number(value).toFixed(4) : '–');
const rate = (value) => (Number(value) === 0 ? '0' : figure(value, 1));

/** Polls until the page is closed; pauses while nobody looks. `asked` is called with each answer. */
export function watch(asked) {
  const step = async () => {
    let wait = EVERY_MS;
    if (!document.hidden) {
      try {
        const status = await get('v1/status');
        showPulse(status);
        if (!$('view-live').hidden) showStatus($('view-live'), status);
        asked(status);
      } catch (error) {
        wait = AFTER_FAILURE_MS;
        showFailure(error);
      }
    }
    setTimeout(step, wait);
  };
  step();
}

function showPulse({ qps, p99_ms: p99, recall: estimate }) {
  const part = (value, name) => h('span', {}, h('b', {}, value), ` ${name}`);
  show(
    $('pulse'),
    h('i', { class: 'dot good' }),
    part(rate(qps), 'qps'),
    part(ms(p99), 'p99'),
    known(estimate?.estimate) && part(figure(estimate.estimate), 'recall'),
  );
}

function showFailure(error) {
  show($('pulse'), h('i', { class: 'dot bad' }), h('span', {}, error.status === 0 ? 'no answer' : `status ${error.status}`));
  const view = $('view-live');
  const stale = h('div', { class: 'problem', id: 'stale' }, facts(error), h('p', { class: 'quiet' }, 'Trying again every 5 seconds.'));
  if (view.hidden) return;
  $('stale')?.remove();
  view.prepend(stale);
}

function tile(name, value, note, kind = '') {
  return h('div', { class: `tile ${kind}` }, h('dt', {}, name), h('dd', {}, value), note && h('dd', { class: 'quiet' }, note));
}

/** Whoever points at a chart reads it: it stays as it is until the pointer has left. */
function showStatus(view, status) {
  if (view.querySelector('.chart svg:hover')) return;
  show(
    view,
    h('h2', {}, 'Live'),
    h('p', { class: 'quiet' }, headline(status)),
    h('dl', { class: 'tiles' }, tiles(status)),
    h('div', { class: 'charts' }, charts(status.series ?? [])),
  );
}

function headline({ index_version: version, control_epoch: epoch, uptime_s: uptime, window_s: window }) {
  return [
    `version ${version ?? '–'}`,
    known(epoch) && `control epoch ${count(epoch)}`,
    `up for ${duration(uptime)}`,
    known(window) && `rates over the last ${duration(window)}`,
  ].filter(Boolean).join(' · ');
}

function tiles(status) {
  const estimated = (given) => [recall(given?.estimate), known(given?.estimate) ? `± ${recall(given.standard_error)} from ${count(given.samples)} samples` : 'no samples yet'];
  return [
    tile('Queries a second', rate(status.qps), 'answered'),
    tile('Median latency', ms(status.p50_ms), 'p50'),
    tile('Tail latency', ms(status.p99_ms), 'p99'),
    tile('Recall', ...estimated(status.recall), 'accent'),
    tile('eCPM recall', ...estimated(status.ecpm_recall), 'amber'),
    tile('Waiting', count(status.queue_depth), 'requests in the queue'),
    tile('Shed', rate(status.shed_per_s), 'a second', status.shed_per_s > 0 ? 'bad' : ''),
    tile('Errors', rate(status.errors_per_s), 'a second', status.errors_per_s > 0 ? 'warn' : ''),
    tile('Delta', count(status.delta_rows), 'rows newer than the version'),
    tile('Tombstones', count(status.tombstones), 'rows replaced or deleted'),
    tile('Memory', bytes(status.resident_bytes), 'resident'),
  ];
}

function charts(series) {
  if (!series.length) return h('p', { class: 'quiet' }, 'No seconds to draw yet.');
  const column = (name) => series.map((second) => second[name]);
  const line = (name, kind, field) => ({ name, kind, values: column(field) });
  return [
    chart('Queries a second', [line('qps', 'accent', 'qps')], { format: rate }),
    chart('Latency', [line('p50', 'accent', 'p50_ms'), line('p99', 'amber', 'p99_ms')], { format: ms }),
    chart('Recall', [line('recall', 'accent', 'recall')], { format: recall, floor: false }),
  ];
}
