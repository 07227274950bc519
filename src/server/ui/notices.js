// What the page says to a person: problems, short messages, questions before something that others will notice.

import { $, h, show } from './dom.js';

/** Shows a problem with its pointer and remedy; an AbortError is no problem. `on401` is called where a key is missing. */
export function problem(error, on401) {
  if (error.name === 'AbortError') return;
  show(
    $('problem'),
    h('div', { class: 'problem' }, facts(error), h('button', { type: 'button', class: 'link', onclick: clear }, 'Dismiss')),
  );
  if (error.status === 401 || error.status === 403) on401?.();
}

export function clear() {
  show($('problem'));
}

/** The detail, pointer and remedy of a problem as elements. */
export function facts(error) {
  return h(
    'div',
    { class: 'problem-facts' },
    h('p', {}, h('strong', {}, error.message ?? error.detail)),
    error.pointer && h('p', {}, 'At ', h('code', {}, error.pointer)),
    error.remedy && h('p', {}, 'Remedy: ', error.remedy),
    (error.code || error.request) &&
      h('p', { class: 'quiet' }, [error.code, error.request && `request ${error.request}`].filter(Boolean).join(' · ')),
  );
}

/** A message that goes by itself; `undo`, if given, is offered with it. */
export function toast(text, undo) {
  const close = () => element.remove();
  const act = undo && h('button', { type: 'button', class: 'link', onclick: () => (close(), undo()) }, 'Undo');
  const element = h('p', { class: 'toast' }, text, act);
  $('toasts').append(element);
  setTimeout(close, undo ? 12000 : 5000);
}

/** Asks before an action; resolves to whether it was confirmed. */
export function confirm(title, text, action) {
  const dialog = $('dialog');
  const button = (label, value, kind) => h('button', { value, class: kind, autofocus: value === 'no' }, label);
  show(
    dialog,
    h('h2', { id: 'dialog-title' }, title),
    h('p', {}, text),
    h('form', { method: 'dialog', class: 'row end' }, button('Cancel', 'no', ''), button(action, 'yes', 'primary')),
  );
  return answered(dialog).then((value) => value === 'yes');
}

/** Shows text to be copied, and copies it on request. */
export function offerCopy(title, text) {
  const dialog = $('dialog');
  const area = h('textarea', { readonly: true, rows: 9, 'aria-label': title, spellcheck: 'false' });
  area.value = text;
  const copy = h('button', { type: 'button', class: 'primary', onclick: () => copyText(area, copy) }, 'Copy');
  show(
    dialog,
    h('h2', { id: 'dialog-title' }, title),
    area,
    h('form', { method: 'dialog', class: 'row end' }, h('button', { value: 'no' }, 'Close'), copy),
  );
  return answered(dialog);
}

function answered(dialog) {
  dialog.returnValue = '';
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue), { once: true });
  });
}

/** By the clipboard where the browser lets us (https and localhost), else by the old command. */
async function copyText(area, button) {
  try {
    await navigator.clipboard.writeText(area.value);
  } catch {
    area.select();
    document.execCommand('copy');
  }
  button.textContent = 'Copied';
}
