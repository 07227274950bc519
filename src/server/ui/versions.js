// Versions of the index: what is served, what waits, and the switch between them.

import { get, inCollection, post } from './api.js';
import { count, figure, h, known, show, withShare } from './dom.js';
import { clear, confirm, problem, toast } from './notices.js';

const path = (rest) => inCollection(rest);

/** Builds the view; returns what loads it afresh. `switched` is called after another version serves. */
export function versionsView(element, switched) {
  const list = h('div', { 'aria-live': 'polite' });
  const load = async () => {
    try {
      showVersions(list, await get(path('/versions')), act);
    } catch (error) {
      problem(error);
    }
  };
  const act = async (text, send, button) => {
    button?.setAttribute('disabled', '');
    try {
      clear();
      const answer = await send();
      toast(typeof text === 'function' ? text(answer) : text);
      switched();
    } catch (error) {
      problem(error);
    }
    button?.removeAttribute('disabled');
    load();
  };
  show(element, h('h2', {}, 'Versions'), list, h('div', { class: 'columns even' }, stageForm(act), measures(act)));
  return load;
}

function showVersions(element, answer, act) {
  const heads = ['Version', 'State', 'Rows', 'Canary recall', 'Folder', ''];
  const rows = (answer.versions ?? []).map((version) => versionRow(version, answer, act));
  const back = answer.previous && h('button', { type: 'button', onclick: () => rollBack(answer, act) }, `Roll back to ${answer.previous}`);
  show(
    element,
    h('div', { class: 'scroll' },
      h('table', { class: 'versions' },
        h('thead', {}, h('tr', {}, heads.map((name) => h('th', { scope: 'col', class: name === 'Rows' && 'number' }, name || h('span', { class: 'hidden' }, 'Actions'))))),
        h('tbody', {}, rows))),
    h('div', { class: 'row' }, back),
    splitForm(answer, act),
  );
}

function versionRow(version, { active, previous }, act) {
  const state = version.version === active ? 'active' : (version.state ?? (version.version === previous ? 'previous' : ''));
  const { recall, queries } = version.canary ?? {};
  const bar = known(recall) && withShare(h('span', { class: 'meter', 'aria-hidden': 'true' }, h('span', {})), recall);
  const button = version.version !== active && state !== 'refused' &&
    h('button', { type: 'button', 'aria-label': `Activate ${version.version}`, onclick: (event) => activate(version, active, act, event.currentTarget) }, 'Activate');
  return h(
    'tr',
    { 'data-version': version.version },
    h('th', { scope: 'row', class: 'mono' }, version.version),
    h('td', {}, h('span', { class: `badge ${state}` }, version.rolled_back ? 'active, rolled back to' : state || '–')),
    h('td', { class: 'number' }, count(version.rows)),
    h('td', {}, h('span', { class: 'canary', title: known(queries) ? `${count(queries)} queries` : '' }, bar, figure(recall, 4))),
    h('td', { class: 'mono quiet' }, version.path ?? ''),
    h('td', {}, button),
  );
}

async function activate(version, active, act, button) {
  const name = version.version;
  const recall = known(version.canary?.recall) ? ` Its canary recall is ${figure(version.canary.recall, 4)}.` : '';
  const text = `It takes the place of ${active} for all requests from the next one on.${recall}`;
  if (await confirm(`Activate ${name}?`, text, 'Activate')) {
    await act(`${name} serves.`, () => post(path('/activate'), { version: name, if_current: active }), button);
  }
}

async function rollBack({ previous, active }, act) {
  const text = `${previous} takes the place of ${active} for all requests from the next one on.`;
  if (await confirm(`Roll back to ${previous}?`, text, 'Roll back')) {
    await act(`Rolled back to ${previous}.`, () => post(path('/rollback'), {}));
  }
}

/** The share of requests (by their split key) that another version answers; 0 ends the split, activating is how to give it all. */
function splitForm({ versions = [], active, split }, act) {
  const others = versions.filter(({ version, state }) => version !== active && state !== 'refused').map(({ version }) => version);
  if (!others.length) return null;
  const select = h('select', { id: 'split-version' }, others.map((name) => h('option', { selected: name === split?.version }, name)));
  const range = h('input', { id: 'split-share', type: 'range', min: 0, max: 99, step: 1, value: Math.round((split?.share ?? 0) * 100) });
  const shown = h('output', { for: 'split-share' }, `${range.value} %`);
  range.addEventListener('input', () => (shown.textContent = `${range.value} %`));
  const submit = async (event) => {
    event.preventDefault();
    const [version, share] = [select.value, Number(range.value) / 100];
    const text = share ? `${range.value} % of requests, by their split key, are answered by ${version}, the others by ${active}.` : `All requests are answered by ${active}.`;
    if (await confirm(share ? 'Split requests?' : 'End the split?', text, share ? 'Split' : 'End')) await act(text, () => post(path('/split'), share ? { version, share } : {}));
  };
  const now = split ? `Now ${Math.round(split.share * 100)} % of requests go to ${split.version}.` : 'Now all requests go to the active version.';
  return h(
    'form',
    { class: 'split', onsubmit: submit },
    h('h3', {}, 'A/B split'),
    h('p', { class: 'quiet' }, now),
    h('div', { class: 'row' },
      h('label', { for: 'split-version' }, 'To'), select,
      h('label', { for: 'split-share' }, 'Share'), range, shown,
      h('button', { type: 'submit' }, 'Apply')),
  );
}

function stageForm(act) {
  const input = h('input', { id: 'stage-path', autocomplete: 'off', spellcheck: 'false', required: true, placeholder: 'folder on the server' });
  const submit = (event) => {
    event.preventDefault();
    const button = event.currentTarget.querySelector('button');
    act('Staged: opened, checked and warm.', () => post(path('/versions'), { path: input.value.trim() }), button);
  };
  return h(
    'form',
    { onsubmit: submit },
    h('h3', {}, 'Stage'),
    h('p', { class: 'quiet' }, 'Opens and checks a version, measures its canary recall and warms it; nothing is switched.'),
    h('div', { class: 'row' }, h('label', { class: 'hidden', for: 'stage-path' }, 'Folder'), input, h('button', { type: 'submit' }, 'Stage')),
  );
}

function measures(act) {
  const told = ({ compacted }) => (compacted ? 'Compacted: the new version serves.' : 'Nothing to compact: there are no changes over the active version.');
  const compact = (event) => act(told, () => post(path('/compact'), {}), event.currentTarget);
  const recall = (event) => act(inFigures, () => post(path('/recall'), { queries: 100, search: { limit: 10 } }), event.currentTarget);
  return h(
    'section',
    {},
    h('h3', {}, 'Measure and compact'),
    h('p', { class: 'quiet' }, 'Recall asks 100 sampled queries again by exact search. Compaction folds changed and deleted ads into a new version.'),
    h('div', { class: 'row' },
      h('button', { type: 'button', onclick: recall }, 'Measure recall@10'),
      h('button', { type: 'button', onclick: compact }, 'Compact')),
  );
}

function inFigures({ recall, standard_error: error, ecpm_recall: ecpm, queries }) {
  const more = known(ecpm) ? `, eCPM recall ${figure(ecpm, 4)}` : '';
  return `Recall@10 ${figure(recall, 4)} ± ${figure(error, 4)}${more} over ${count(queries)} queries.`;
}
