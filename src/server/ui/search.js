// The search view: from the fields to a request, from the answer to the page.

import { inCollection, post } from './api.js';
import { $, h, later, show } from './dom.js';
import * as drawer from './explain.js';
import { add } from './filters.js';
import * as form from './form.js';
import * as notices from './notices.js';
import { knownQueries, offerQueries } from './offers.js';
import { showHits, showSummary, showTiming } from './results.js';
import { fresh, parseKey, toBody, toCurl, toHash } from './state.js';

const TYPING_MS = 250;

let state = fresh();
let info = { attributes: [] };
let running = null;
let keyNeeded = () => {};

/** Connects the view. `on401` is called where the server wants a key. */
export function start(on401) {
  keyNeeded = on401;
  const close = offerQueries($('ask'), () => state.kind === 'text', (text) => {
    $('ask').value = text;
    submit();
  });
  $('search-form').addEventListener('submit', (event) => {
    event.preventDefault();
    close();
    submit();
  });
  for (const radio of document.querySelectorAll('input[name=kind]')) radio.addEventListener('change', changeKind);
  const typed = later(TYPING_MS, refine);
  $('refine').addEventListener('input', (event) => {
    if (event.target.id === 'min-relevance') $('min-relevance-number').value = event.target.value === '0' ? '' : event.target.value;
    if (event.target.id === 'alpha') $('alpha-out').value = event.target.value;
    // The form for a new filter changes nothing before it is added.
    if (!$('filter-add').contains(event.target)) typed();
  });
  $('refine').addEventListener('submit', (event) => event.preventDefault());
  $('reset').addEventListener('click', () => {
    state = { ...fresh(), kind: state.kind, query: state.query, split: '' };
    document.activeElement.blur();
    changed();
  });
  $('why-not').addEventListener('submit', whyNot);
}

/** The collection's description, when it is known. */
export function describe(given) {
  info = { ...given, attributes: given.attributes ?? [] };
  form.fit(info, () => state, changed);
  form.write(state, changed);
}

/** Takes a state from the hash, shows and asks it. */
export function restore(given) {
  state = given;
  form.write(state, changed);
  return ask();
}

/** The hash of what is on the page. */
export const hash = () => toHash(state);

function submit() {
  form.read(state);
  state.offset = 0;
  history.pushState(null, '', toHash(state));
  ask();
}

/** A field of the panel was changed by a person. */
function refine() {
  form.read(state);
  changed();
}

function changed() {
  state.offset = 0;
  form.write(state, changed);
  history.replaceState(null, '', toHash(state));
  ask();
}

function changeKind(event) {
  state.kind = event.target.value;
  $('ask').value = '';
  state.query = '';
  form.write(state, changed);
  $('ask').focus();
}

/** Asks what the state says; an earlier request that is still running is given up. */
export async function ask() {
  running?.abort();
  form.unmark();
  const note = form.refinements(state);
  show($('rail').querySelector('summary'), 'Refine', note && h('span', { class: 'quiet' }, ` ${note}`));
  if (!state.query.trim()) return showWelcome();
  running = new AbortController();
  const { signal } = running;
  document.body.classList.add('busy');
  try {
    const body = toBody(state);
    const answer = await post(inCollection('/search'), body, { signal });
    notices.clear();
    showAnswer(answer, body);
  } catch (error) {
    if (error.name === 'AbortError') return;
    clearAnswer();
    notices.problem(error, keyNeeded);
    form.markWrong(error.pointer);
  }
  document.body.classList.remove('busy');
}

function clearAnswer() {
  for (const id of ['summary', 'timing', 'hits', 'pages']) show($(id));
  $('why-not').hidden = true;
}

async function showWelcome() {
  clearAnswer();
  document.body.classList.remove('busy');
  if (state.kind !== 'text') return;
  const texts = (await knownQueries('')).slice(0, 12);
  if (state.query.trim() || !texts.length) return;
  const offer = (text) => h('li', {}, h('button', { type: 'button', class: 'fact', onclick: () => (($('ask').value = text), submit()) }, text));
  show(
    $('summary'),
    h('div', { class: 'welcome' },
      h('h2', {}, 'What would you like to find?'),
      h('p', { class: 'quiet' }, info.text_encoder ? 'Any words will do. Try one:' : `${info.known_queries ?? texts.length} queries are known by name. Try one:`),
      h('ul', { class: 'chips' }, texts.map(offer))),
  );
}

function showAnswer(answer, body) {
  const actions = [
    h('button', { type: 'button', class: 'link', onclick: () => notices.offerCopy('This request as a command', toCurl(body)) }, 'As curl'),
    h('button', { type: 'button', class: 'link', onclick: () => notices.offerCopy('A link to this search', location.href) }, 'Link'),
  ];
  showSummary($('summary'), answer, state, actions);
  showTiming($('timing'), answer);
  const filterable = info.attributes.filter(({ type }) => ['keyword', 'keywords', 'boolean'].includes(type)).map(({ name }) => name);
  showHits($('hits'), answer.hits, { metric: info.metric, filterable, first: state.offset + 1 }, onHit(body));
  if (!answer.hits.length) show($('pages'), h('p', { class: 'empty' }, state.offset ? 'There are no more hits.' : 'No ad passes all of this. Relax a filter, or ask below where an ad was lost.'));
  else showPages(answer.hits.length);
  $('why-not').hidden = false;
}

function showPages(hits) {
  const go = (offset) => () => {
    state.offset = Math.max(0, offset);
    history.pushState(null, '', toHash(state));
    ask().then(() => $('summary').scrollIntoView({ block: 'nearest' }));
  };
  const page = (label, offset, can) => can && h('button', { type: 'button', onclick: go(offset) }, label);
  show($('pages'), page('← Back', state.offset - state.limit, state.offset > 0), page('More →', state.offset + state.limit, hits === state.limit));
}

const onHit = (body) => ({
  explain: (hit) => drawer.explain(body, hit.key, ask),
  similar: (hit) => {
    state = { ...state, kind: 'key', query: String(hit.key), offset: 0 };
    history.pushState(null, '', toHash(state));
    document.activeElement.blur();
    form.write(state, changed);
    ask();
    window.scrollTo({ top: 0 });
  },
  block: ({ advertiser }) => {
    if (!state.block.advertisers.includes(advertiser)) state.block.advertisers.push(advertiser);
    notices.toast(`Without advertiser ${advertiser}.`, () => {
      state.block.advertisers = state.block.advertisers.filter((other) => other !== advertiser);
      changed();
    });
    changed();
  },
  filter: (attribute, match) => {
    add(state.filter, 'must', { attribute, match });
    changed();
  },
});

function whyNot(event) {
  event.preventDefault();
  try {
    drawer.explain(toBody(state), parseKey($('why-not-key').value.trim()), ask);
  } catch (error) {
    notices.problem(error);
  }
}
