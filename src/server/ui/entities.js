// Advertisers, campaigns, ad groups and ads: their state, and pausing and resuming them.

import { ask, get, inCollection } from './api.js';
import { $, count, figure, h, known, money, show, words } from './dom.js';
import { clear, facts, problem, toast } from './notices.js';
import { parseKey } from './state.js';

export const LEVELS = ['advertiser', 'campaign', 'ad_group', 'ad'];

/** What a person has changed in this tab, newest first. */
const changes = [];

/** The entity's record; null where nothing is known of it, which means that it serves unless something above it does not. */
export async function entity(level, id) {
  try {
    const answer = await get(inCollection(`/control/${level}/${id}`));
    return { ...answer, ...answer.record };
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

/** Sends one patch; throws the problem of its item. */
export async function patch(level, id, change) {
  const answer = await ask('PATCH', inCollection('/control'), { lines: [{ level, id, ...change }] });
  const refused = answer.items?.find((item) => item.status === 'error');
  if (refused) {
    const error = new Error(refused.problem?.detail ?? 'the change was refused');
    throw Object.assign(error, refused.problem);
  }
  return answer;
}

/** Pauses or resumes, says so, offers to undo; `after` is called when the server has answered, also after an undo. */
async function turn(level, id, status, after, undoing) {
  try {
    const answer = await patch(level, id, { status });
    const text = `${words(level)} ${id} is ${status === 'paused' ? 'paused' : 'active'} as of control epoch ${count(answer.control_epoch)}.`;
    changes.unshift({ level, id, status, epoch: answer.control_epoch, at: new Date() });
    toast(text[0].toUpperCase() + text.slice(1), undoing ? undefined : () => turn(level, id, status === 'paused' ? 'active' : 'paused', after, true));
    after();
  } catch (error) {
    problem(error);
  }
}

/** A row with the state of one entity and the button that changes it; filled when the server has answered. */
export function entityRow(level, id, changed) {
  const row = h('li', { class: 'entity', 'data-entity': `${level} ${id}` });
  const load = async () => {
    try {
      fillRow(row, level, id, await entity(level, id), () => (load(), changed?.()));
    } catch (error) {
      show(row, h('span', {}, `${words(level)} ${id}`), facts(error));
    }
  };
  show(row, h('span', { class: 'quiet' }, `${words(level)} ${id} …`));
  load();
  return row;
}

function fillRow(row, level, id, record, after) {
  const paused = record?.status === 'paused';
  const state = paused ? 'paused' : (record?.status ?? 'active');
  const more = [
    record?.budget === 'exhausted' && 'budget exhausted',
    known(record?.bid_micros) && `bid ${money(record.bid_micros)}`,
    known(record?.ctr) && `click rate ${figure(record.ctr, 4)}`,
    record?.start && `from ${moment(record.start)}`,
    record?.end && `until ${moment(record.end)}`,
    record === null && 'no record of its own',
  ];
  const label = paused ? 'Resume' : 'Pause';
  const act = () => turn(level, id, paused ? 'active' : 'paused', after);
  const focused = row.contains(document.activeElement);
  show(
    row,
    h('div', {}, h('strong', {}, `${words(level)} ${id}`), ' ', h('span', { class: `badge ${state}` }, state)),
    h('span', { class: 'quiet' }, more.filter(Boolean).join(' · ')),
    h('button', { type: 'button', 'aria-label': `${label} ${words(level)} ${id}`, onclick: act }, label),
  );
  // The button that was pressed is gone: a keyboard goes on from the new one.
  if (focused) row.querySelector('button').focus();
}

/** A time as the server may send it: seconds since 1970, or RFC 3339. */
function moment(time) {
  const date = new Date(typeof time === 'number' ? time * 1000 : time);
  return Number.isNaN(date.getTime()) ? String(time) : date.toLocaleString();
}

/** The view that finds an entity by its id. */
export function controlView(element) {
  const level = h('select', { id: 'entity-level' }, LEVELS.map((name) => h('option', { value: name }, words(name))));
  const id = h('input', { id: 'entity-id', inputmode: 'numeric', autocomplete: 'off', required: true, placeholder: 'id' });
  const found = h('ul', { class: 'entities', 'aria-live': 'polite' });
  const list = h('tbody', {});
  const submit = (event) => {
    event.preventDefault();
    try {
      const number = parseKey(id.value.trim());
      clear();
      show(found, entityRow(level.value, number, () => showChanges(list)));
    } catch (error) {
      problem(error);
    }
  };
  show(
    element,
    h('h2', {}, 'Control'),
    h('p', { class: 'quiet' }, 'A pause holds from the next request on, for everything below what is paused. An ad’s id is its key.'),
    h('form', { class: 'row', onsubmit: submit },
      h('label', { for: 'entity-level', class: 'hidden' }, 'Level'), level,
      h('label', { for: 'entity-id', class: 'hidden' }, 'Id'), id,
      h('button', { type: 'submit', class: 'primary' }, 'Show')),
    found,
    h('h3', {}, 'Changed in this tab'),
    h('div', { class: 'scroll' },
      h('table', {},
        h('thead', {}, h('tr', {}, ['Time', 'What', 'State', 'Control epoch'].map((name) => h('th', { scope: 'col' }, name)))), list)),
  );
  return () => showChanges(list);
}

function showChanges(list) {
  const cells = ({ level, id, status, epoch, at }) => [at.toLocaleTimeString(), `${words(level)} ${id}`, status, count(epoch)];
  const none = h('tr', {}, h('td', { colspan: 4, class: 'quiet' }, 'Nothing yet.'));
  show(list, changes.length ? changes.map((change) => h('tr', {}, cells(change).map((cell) => h('td', {}, cell)))) : none);
}

/** Closes over what a drawer needs to show all four levels of an ad. */
export function chainOf(key, standing) {
  const ids = { ...standing, ad: key };
  return LEVELS.filter((level) => known(ids[level])).map((level) => [level, ids[level]]);
}

/** Where the focus goes when the view opens. */
export const focusControl = () => $('entity-id')?.focus();
