// An answer: the line above it, where its time went, the hits.

import { bytes, count, duration, figure, h, known, money, show, svg, withShare, words } from './dom.js';

/** Names under which a record's headline is usually found. */
const TITLES = ['title', 'name', 'headline', 'text'];
/** Strings longer than this are not offered as filters: the server does not take them as keywords. */
const KEYWORD_BYTES = 64;

/** What a hit is called: the first headline of its record, else its key. */
export function titleOf(fields, key) {
  const name = TITLES.find((name) => typeof fields?.[name] === 'string' && fields[name]);
  return name ? fields[name] : `Ad ${key}`;
}

/** The line above the hits; `actions` are buttons. */
export function showSummary(element, answer, state, actions) {
  const { hits, coverage = {} } = answer;
  const what = state.offset ? `Hits ${state.offset + 1} to ${state.offset + hits.length}` : `${hits.length} ${hits.length === 1 ? 'hit' : 'hits'}`;
  const facts = [
    `in ${duration(answer.took_ms / 1e3)}`,
    `version ${answer.index_version.slice(0, 8)}`,
    known(answer.control_epoch) && `control epoch ${count(answer.control_epoch)}`,
  ];
  const weak = [!coverage.complete && `${figure((coverage.fraction ?? 0) * 100, 1)} % of the work was done`, ...(coverage.degraded ?? []).map(words)];
  show(
    element,
    h('p', {}, h('strong', {}, what), ' ', h('span', { class: 'quiet' }, facts.filter(Boolean).join(' · '))),
    weak.some(Boolean) && h('p', { class: 'warning' }, `Degraded: ${weak.filter(Boolean).join(', ')}`),
    h('div', { class: 'row actions' }, actions),
  );
}

/** A bar of the steps that the statistics have times for, and their counts. */
export function showTiming(element, answer) {
  const stats = answer.stats;
  if (!stats) return show(element);
  const steps = Object.entries(stats).filter(([name]) => name.endsWith('_ns')).map(([name, ns]) => [name.slice(0, -3), ns / 1e9]);
  const counted = steps.reduce((sum, [, seconds]) => sum + seconds, 0);
  const rest = answer.took_ms / 1e3 - counted;
  if (rest > counted * 0.01) steps.push(['around it', rest]);
  const all = Math.max(counted, answer.took_ms / 1e3) || 1;
  const shown = steps.filter(([, seconds]) => seconds > 0);
  const spoken = shown.map(([name, seconds]) => `${name} ${duration(seconds)}`).join(', ');
  const segment = ([name, seconds]) => withShare(h('span', { class: `step-${name.replaceAll(' ', '-')}`, title: `${name}: ${duration(seconds)}` }), seconds / all);
  const legend = ([name, seconds]) => h('li', {}, h('i', { class: `step-${name.replaceAll(' ', '-')}` }), name, ' ', h('b', {}, duration(seconds)));
  const counts = Object.entries(stats).filter(([name, value]) => !name.endsWith('_ns') && name !== 'fraction' && value > 0);
  const fact = ([name, value]) => h('div', {}, h('dt', {}, words(name)), h('dd', {}, name.startsWith('bytes') ? bytes(value) : count(value)));
  show(
    element,
    h('details', { class: 'timing', open: element.querySelector('details')?.open },
      h('summary', {},
        h('span', { class: 'bar', role: 'img', 'aria-label': `Time by step: ${spoken}` }, shown.map(segment)),
        h('ul', { class: 'legend', 'aria-hidden': 'true' }, shown.map(legend))),
      h('dl', { class: 'counts' }, counts.map(fact))),
  );
}

/** Share of the bar for a relevance: cosines as they are, other metrics between the worst and the best hit. */
function scale(hits, metric) {
  if (metric === 'cosine') return (value) => value;
  const values = hits.map((hit) => hit.relevance ?? hit.score);
  const [least, most] = [Math.min(...values), Math.max(...values)];
  return (value) => (most > least ? 0.1 + (0.9 * (value - least)) / (most - least) : 1);
}

/** The hits. `context`: `metric`, `filterable` (names), `first` (place of the first hit); `on`: what a person can do with one. */
export function showHits(element, hits, context, on) {
  const share = scale(hits, context.metric);
  element.setAttribute('start', context.first);
  show(element, hits.map((hit, at) => hitItem(hit, context.first + at, share(hit.relevance ?? hit.score), context, on)));
}

function hitItem(hit, place, share, context, on) {
  const title = titleOf(hit.fields, hit.key);
  const relevance = hit.relevance ?? hit.score;
  const bar = withShare(h('span', { class: 'meter', 'aria-hidden': 'true' }, h('span', {})), share);
  const metric = (name, value, kind) => h('div', { class: `metric ${kind}` }, h('dt', {}, name), h('dd', {}, value));
  return h(
    'li',
    { class: 'hit', 'data-key': hit.key },
    h('span', { class: 'place', 'aria-hidden': 'true' }, place),
    h('div', { class: 'what' },
      h('h2', {}, h('button', { type: 'button', class: 'title', onclick: () => on.explain(hit) }, title)),
      h('ul', { class: 'facts' }, fieldFacts(hit, title, context, on))),
    h('dl', { class: 'metrics' },
      h('div', { class: 'metric relevance' }, h('dt', {}, 'Relevance'), h('dd', {}, bar, h('span', {}, figure(relevance)))),
      known(hit.bid_micros) && metric('Bid', money(hit.bid_micros), 'bid'),
      known(hit.ecpm_micros) && metric('eCPM', money(hit.ecpm_micros), 'ecpm')),
    actionsOf(hit, title, on),
  );
}

function actionsOf(hit, title, on) {
  const act = (label, icon, spoken, action) =>
    h('button', { type: 'button', class: 'act', 'aria-label': `${spoken}: ${title}`, title: spoken, onclick: () => action(hit) }, symbol(icon), label);
  return h(
    'div',
    { class: 'hit-actions' },
    act('Why', 'why', 'Explain this hit', on.explain),
    act('Similar', 'similar', 'More like this', on.similar),
    known(hit.advertiser) && act('Block', 'block', 'Block this advertiser', on.block),
  );
}

const PATHS = {
  why: 'M6.200 6.200a1.900 1.900 0 1 1 2.600 1.800c-.6.300-.8.600-.8 1.300M8 11.600v.1M14 8A6 6 0 1 1 2 8a6 6 0 0 1 12 0z',
  similar: 'M2.500 5.500h8M2.500 10.500h8M10.500 5.500l-2-2M10.500 5.500l-2 2M13.500 10.500l-2-2M13.500 10.500l-2 2M8 10.500h5',
  block: 'M14 8A6 6 0 1 1 2 8a6 6 0 0 1 12 0zM3.800 3.800l8.400 8.400',
};

const symbol = (name) => svg('svg', { viewBox: '0 0 16 16', 'aria-hidden': 'true' }, svg('path', { d: PATHS[name] }));

/** Fields as small facts; those that a filter can test are buttons. */
function fieldFacts(hit, title, { filterable }, on) {
  const owner = [hit.advertiser, hit.campaign, hit.ad_group];
  const facts = [h('li', { class: 'mono' }, `#${hit.key}`)];
  if (known(owner[0])) facts.push(h('li', { title: 'advertiser / campaign / ad group' }, 'advertiser ', owner.filter(known).join(' / ')));
  for (const [name, value] of Object.entries(hit.fields ?? {})) {
    if (value === title || value === null || value.length === 0 || (name === 'id' && value === hit.key)) continue;
    const parts = Array.isArray(value) ? value : [value];
    const can = filterable.includes(name) && ['string', 'boolean'].includes(typeof parts[0]);
    facts.push(h('li', {}, h('span', { class: 'quiet' }, `${words(name)} `), parts.map((part, at) => [at ? ', ' : '', factOf(name, part, can, on)])));
  }
  return facts;
}

function factOf(name, value, can, on) {
  const text = typeof value === 'object' ? JSON.stringify(value) : typeof value === 'number' ? plain(value) : String(value);
  if (!can || new TextEncoder().encode(text).length > KEYWORD_BYTES) return text;
  return h('button', { type: 'button', class: 'fact', title: `Filter: ${name} is ${text}`, onclick: () => on.filter(name, value) }, text);
}

/** Four digits may be a year: no comma in them. */
const plain = (value) => (Number.isInteger(value) && Math.abs(value) > 9999 ? count(value) : String(value));
