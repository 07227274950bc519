// The fields of the search view and the state they stand for.

import { $, h, known, show, words } from './dom.js';
import { add, inWords, showChips, showForm } from './filters.js';
import { fresh } from './state.js';

/** Field by member of the state; the type of the default says how it is read. */
const FIELDS = {
  alpha: 'alpha',
  per: 'diversity-key',
  most: 'diversity-max',
  target: 'recall-target',
  nprobe: 'nprobe',
  candidates: 'candidates',
  limit: 'limit',
  timeout: 'timeout',
  split: 'split-key',
  exact: 'exact',
  partial: 'partial',
};
const CHOICES = ['kind', 'rank', 'eligibility'];

/** Which field a problem's pointer is about. */
const POINTERS = {
  '/text': 'ask',
  '/key': 'ask',
  '/vector': 'ask',
  '/limit': 'limit',
  '/min_relevance': 'min-relevance-number',
  '/alpha': 'alpha',
  '/diversity/key': 'diversity-key',
  '/diversity/max': 'diversity-max',
  '/params/nprobe': 'nprobe',
  '/params/candidates': 'candidates',
  '/params/recall_target': 'recall-target',
  '/timeout_ms': 'timeout',
  '/split_key': 'split-key',
};

const PLACEHOLDERS = {
  text: 'Search in words',
  key: 'The key of an ad: more like this one',
  vector: 'Paste a vector: numbers with commas or spaces, or a JSON array',
};

const radios = (name) => [...document.querySelectorAll(`input[name=${name}]`)];

/** Puts `state` into the fields. */
export function write(state, changed) {
  for (const name of CHOICES) for (const radio of radios(name)) radio.checked = radio.value === state[name];
  for (const [member, id] of Object.entries(FIELDS)) {
    if (typeof state[member] === 'boolean') $(id).checked = state[member];
    else if (document.activeElement !== $(id) || $(id).tagName === 'SELECT') $(id).value = state[member];
  }
  if (document.activeElement !== $('ask')) $('ask').value = state.query;
  $('ask').placeholder = PLACEHOLDERS[state.kind];
  $('ask').inputMode = state.kind === 'key' ? 'numeric' : 'search';
  $('alpha-row').hidden = state.rank !== 'ecpm';
  $('alpha-out').value = state.alpha;
  if (document.activeElement !== $('min-relevance-number')) $('min-relevance-number').value = state.min;
  $('min-relevance').value = state.min || 0;
  for (const id of ['nprobe', 'candidates', 'recall-target']) $(id).disabled = state.exact;
  showChips($('chips'), state.filter, changed);
  showBlocks($('blocks'), state.block, changed);
}

/** Reads the fields into `state` (filters and blocks are there already). */
export function read(state) {
  const defaults = fresh();
  for (const name of CHOICES) state[name] = radios(name).find((radio) => radio.checked)?.value ?? defaults[name];
  for (const [member, id] of Object.entries(FIELDS)) {
    const usual = defaults[member];
    const value = $(id).value;
    if (typeof usual === 'boolean') state[member] = $(id).checked;
    else if (typeof usual === 'number') state[member] = value === '' ? usual : Number(value);
    else state[member] = value.trim();
  }
  state.query = $('ask').value;
  state.min = $('min-relevance-number').value;
}

function showBlocks(element, block, changed) {
  const chip = (kind, id) => {
    const name = `${kind === 'keys' ? 'ad' : kind.slice(0, -1)} ${id}`;
    const lift = () => {
      block[kind] = block[kind].filter((other) => other !== id);
      changed();
    };
    return h('li', { class: 'chip must_not' },
      h('span', {}, `without ${name}`),
      h('button', { type: 'button', class: 'remove', 'aria-label': `Unblock ${name}`, onclick: lift }, '×'));
  };
  show(element, Object.entries(block).map(([kind, ids]) => ids.map((id) => chip(kind, id))));
}

/** Fits the fields to the collection: its metric and attributes. `changed` is called when a filter was added. */
export function fit(info, state, changed) {
  const filterable = (info.attributes ?? []).filter(({ type }) => type !== 'text');
  showForm($('filter-add'), filterable, (clause, condition) => {
    add(state().filter, clause, condition);
    changed();
  });
  // Sets of keywords have no one value to cap by.
  const caps = filterable.filter(({ type }) => type !== 'keywords').map(({ name }) => name);
  const groups = ['advertiser', 'campaign', 'ad_group', ...caps];
  show($('diversity-key'), h('option', { value: '' }, '– off –'), groups.map((name) => h('option', { value: name }, words(name))));
  $('min-relevance').hidden = info.metric !== 'cosine';
  if (known(info.limits?.hits)) $('limit').max = info.limits.hits;
  if (known(info.limits?.nprobe)) $('nprobe').max = info.limits.nprobe;
  if (known(info.limits?.candidates)) $('candidates').max = info.limits.candidates;
}

/** Marks the field that a problem is about, and opens the panel that hides it. */
export function markWrong(pointer) {
  unmark();
  if (!pointer) return;
  const found = Object.entries(POINTERS).find(([start]) => pointer.startsWith(start));
  const chip = [...document.querySelectorAll('[data-pointer]')].find((element) => pointer.startsWith(element.dataset.pointer));
  const field = found ? $(found[1]) : chip;
  field?.setAttribute('aria-invalid', 'true');
  if (field && $('rail').contains(field)) $('rail').open = true;
}

/** Takes the marks of the last problem away. */
export function unmark() {
  for (const element of document.querySelectorAll('[aria-invalid]')) element.removeAttribute('aria-invalid');
}

/** What is refined, in a few words, for the closed panel. */
export function refinements(state) {
  const filters = Object.values(state.filter).flat().map(inWords);
  return [
    state.rank === 'ecpm' && 'by eCPM',
    ...filters,
    state.eligibility === 'all' && 'all ads',
    state.min !== '' && `relevance ≥ ${state.min}`,
    state.per && `${state.most} of each ${words(state.per)}`,
  ].filter(Boolean).join(' · ');
}
