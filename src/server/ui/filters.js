// Filters over the attributes of the collection: chips for those in force, a small form for a new one.

import { CLAUSES } from './state.js';
import { h, show, words } from './dom.js';

const NUMERIC = ['integer', 'float'];
const SIGNS = { gte: '≥', gt: '>', lte: '≤', lt: '<' };

/** A condition in a person's words: "price_cents 10 – 90", "supplier is HP". */
export function inWords({ attribute, match, any, range }) {
  if (match !== undefined) return `${attribute} is ${match}`;
  if (Array.isArray(any)) return `${attribute} is one of ${any.join(', ')}`;
  const { gte, lte, ...strict } = range ?? {};
  if (gte !== undefined && lte !== undefined && !Object.keys(strict).length) return `${attribute} ${gte} – ${lte}`;
  return Object.entries(range ?? {})
    .map(([sign, bound], at) => `${at ? 'and' : attribute} ${SIGNS[sign] ?? sign} ${bound}`)
    .join(' ');
}

/** The same condition twice is one. */
export function add(filter, clause, condition) {
  const same = JSON.stringify(condition);
  if (!filter[clause].some((old) => JSON.stringify(old) === same)) filter[clause].push(condition);
}

/** Shows the chips. `changed` is called after a person has changed `filter`. */
export function showChips(element, filter, changed) {
  const chip = (clause, at) => {
    const text = inWords(filter[clause][at]);
    const next = CLAUSES[(CLAUSES.indexOf(clause) + 1) % CLAUSES.length];
    const remove = () => filter[clause].splice(at, 1);
    const turn = () => add(filter, next, remove()[0]);
    const act = (action) => () => (action(), changed());
    return h(
      'li',
      { class: `chip ${clause}`, 'data-pointer': `/filter/${clause}/${at}` },
      h('button', { type: 'button', class: 'clause', title: `Change to ${words(next)}`, onclick: act(turn) }, words(clause)),
      h('span', {}, text),
      h('button', { type: 'button', class: 'remove', 'aria-label': `Remove: ${words(clause)} ${text}`, onclick: act(remove) }, '×'),
    );
  };
  show(element, CLAUSES.map((clause) => filter[clause].map((_, at) => chip(clause, at))));
}

/** Builds the form for a new filter by `attributes`; `added` takes the clause and the condition. */
export function showForm(element, attributes, added) {
  if (!attributes.length) {
    show(element, h('p', { class: 'quiet' }, 'This collection has no attributes to filter by.'));
    return;
  }
  const select = (label, options) =>
    h('select', { 'aria-label': label }, options.map(([value, text]) => h('option', { value }, text)));
  const attribute = select('Attribute', attributes.map(({ name }) => [name, name]));
  const clause = select('Clause', CLAUSES.map((name) => [name, words(name)]));
  const test = h('div', { class: 'test' });
  let read = () => {};
  const choose = () => {
    read = testFields(test, attributes.find(({ name }) => name === attribute.value));
  };
  attribute.addEventListener('change', choose);
  const submit = () => {
    const condition = read();
    if (condition) added(clause.value, { attribute: attribute.value, ...condition });
  };
  element.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.target.tagName === 'BUTTON') return;
    event.preventDefault();
    submit();
  });
  choose();
  show(element, clause, attribute, test, h('button', { type: 'button', onclick: submit }, 'Add filter'));
}

/** Puts the fields for a test of this attribute into `element`; returns what reads them (undefined: nothing entered). */
function testFields(element, { name, type }) {
  if (type === 'boolean') {
    const value = h('select', { 'aria-label': `${name} is` }, h('option', {}, 'true'), h('option', {}, 'false'));
    show(element, h('span', {}, 'is'), value);
    return () => ({ match: value.value === 'true' });
  }
  if (NUMERIC.includes(type)) {
    const bound = (label) => h('input', { type: 'number', step: type === 'integer' ? '1' : 'any', 'aria-label': `${name}, ${label}`, placeholder: label });
    const [least, most] = [bound('at least'), bound('at most')];
    show(element, least, most);
    return () => readRange(least, most);
  }
  const value = h('input', { type: 'text', 'aria-label': `${name} is`, placeholder: 'value, or a, b, c', autocomplete: 'off' });
  show(element, value);
  return () => readWords(value);
}

function readRange(least, most) {
  const range = {};
  if (least.value !== '') range.gte = Number(least.value);
  if (most.value !== '') range.lte = Number(most.value);
  const empty = !Object.keys(range).length;
  (empty ? least : most).focus();
  return empty ? undefined : { range };
}

function readWords(input) {
  const values = input.value.split(',').map((value) => value.trim()).filter(Boolean);
  input.value = '';
  input.focus();
  if (!values.length) return undefined;
  return values.length === 1 ? { match: values[0] } : { any: values };
}
