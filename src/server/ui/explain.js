// The drawer: why an ad is in the answer, or where it was lost and what would let it in.

import { get, inCollection, post } from './api.js';
import { $, figure, h, known, money, show, words } from './dom.js';
import { chainOf, entityRow } from './entities.js';
import { facts } from './notices.js';
import { titleOf } from './results.js';

let opener = null;
let pending = null;

/** Closes the drawer and gives the focus back to where it came from. */
export function close() {
  if ($('drawer').hidden) return false;
  pending?.abort();
  $('drawer').hidden = true;
  document.body.classList.remove('with-drawer');
  opener?.focus();
  return true;
}

/** Explains `key` under the search `query` (a request body); `changed` is called after a pause or resume. */
export async function explain(query, key, changed) {
  const drawer = $('drawer');
  if (drawer.hidden) opener = document.activeElement;
  pending?.abort();
  pending = new AbortController();
  const { signal } = pending;
  const parts = { title: h('h2', {}, `Ad ${key}`), verdict: h('div', {}), about: h('div', {}) };
  const shut = h('button', { type: 'button', class: 'icon', 'aria-label': 'Close', onclick: close }, '×');
  show(drawer, h('header', {}, h('div', {}, parts.title, h('p', { class: 'quiet mono' }, `#${key}`)), shut), parts.verdict, parts.about);
  show(parts.verdict, h('p', { class: 'quiet' }, 'Asking …'));
  drawer.hidden = false;
  document.body.classList.add('with-drawer');
  drawer.focus();
  const judge = () => showVerdict(parts, query, key, signal);
  await Promise.all([judge(), showAd(parts, key, signal, () => (judge(), changed()))]);
}

async function showVerdict(parts, query, key, signal) {
  const { with_fields, stats, ...asked } = query;
  try {
    const answer = await post(inCollection('/explain'), { query: asked, key }, { signal });
    show(parts.verdict, verdict(answer), h('ol', { class: 'steps', 'aria-label': 'Steps' }, (answer.steps ?? []).map(stepItem)));
  } catch (error) {
    if (error.name !== 'AbortError') show(parts.verdict, h('div', { class: 'problem' }, facts(error)));
  }
}

function verdict({ found, rank, lost_at: lost, remedy }) {
  if (found) return h('p', { class: 'verdict good' }, known(rank) ? `In the answer, at place ${rank + 1}.` : 'In the answer.');
  return h(
    'div',
    { class: 'verdict bad' },
    h('p', {}, lost ? ['Not in the answer: lost at ', h('strong', {}, words(lost)), '.'] : 'Not in the answer.'),
    remedy && h('p', {}, 'To let it in: ', remedy),
  );
}

function stepItem({ step, passed, detail }) {
  const state = passed === true ? 'passed' : passed === false ? 'failed' : 'skipped';
  return h(
    'li',
    { class: state },
    h('span', { class: 'mark', 'aria-hidden': 'true' }, { passed: '✓', failed: '✗', skipped: '·' }[state]),
    h('div', {}, h('strong', {}, words(step)), h('span', { class: 'hidden' }, ` ${state}: `), h('p', { class: 'quiet' }, inText(detail))),
  );
}

/** Details are text, or an object of figures. */
function inText(detail) {
  if (detail === null || typeof detail !== 'object') return String(detail ?? '');
  return Object.entries(detail).map(([name, value]) => `${words(name)} ${typeof value === 'number' ? figure(value, 4) : inText(value)}`).join(', ');
}

async function showAd(parts, key, signal, changed) {
  let ad;
  try {
    ad = await get(inCollection(`/ads/${key}`), { signal });
  } catch (error) {
    if (error.name !== 'AbortError' && error.status !== 404) show(parts.about, facts(error));
    return;
  }
  parts.title.textContent = titleOf(ad.attributes, key);
  const standing = ad.standing ?? {};
  const rows = [
    ['Lives in', ad.place === 'delta' ? 'the delta (changed since the version was built)' : ad.place],
    known(standing.bid_micros) && ['Bid', money(standing.bid_micros)],
    known(standing.ctr) && ['Click rate', figure(standing.ctr, 4)],
    ...Object.entries(ad.attributes ?? {}).map(([name, value]) => [words(name), Array.isArray(value) ? value.join(', ') : String(value)]),
  ];
  show(
    parts.about,
    h('h3', {}, 'Serving'),
    h('ul', { class: 'entities' }, chainOf(key, standing).map(([level, id]) => entityRow(level, id, changed))),
    h('h3', {}, 'The ad'),
    h('dl', { class: 'sheet' }, rows.filter(Boolean).map(([name, value]) => [h('dt', {}, name), h('dd', {}, value)])),
  );
}
