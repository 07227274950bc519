// The list of known queries below the search field (an ARIA combobox).

import { get, inCollection } from './api.js';
import { $, h, later, show } from './dom.js';

const WAIT_MS = 80;

/** The known queries that start with `prefix`; none where the server has none or does not tell. */
export async function knownQueries(prefix) {
  try {
    return (await get(inCollection(`/queries?prefix=${encodeURIComponent(prefix)}`))).queries ?? [];
  } catch {
    return [];
  }
}

/** Offers known queries for `input` while `wanted()`; `chosen` is called with the one taken. */
export function offerQueries(input, wanted, chosen) {
  const list = $('offers');
  let at = -1;
  // Answers that come after the list was closed must not open it again.
  let waiting = false;
  const close = () => {
    waiting = false;
    list.hidden = true;
    at = -1;
    input.setAttribute('aria-expanded', 'false');
    input.removeAttribute('aria-activedescendant');
  };
  const take = (text) => {
    close();
    chosen(text);
  };
  const mark = (next) => {
    const options = [...list.children];
    at = (next + options.length) % options.length;
    options.forEach((option, place) => option.setAttribute('aria-selected', String(place === at)));
    options[at].scrollIntoView({ block: 'nearest' });
    input.setAttribute('aria-activedescendant', options[at].id);
  };
  const open = later(WAIT_MS, async () => {
    if (!waiting) return;
    const prefix = input.value;
    const texts = wanted() ? await knownQueries(prefix.trim()) : [];
    if (!waiting || !texts.length || prefix !== input.value || document.activeElement !== input) return close();
    at = -1;
    show(list, texts.map((text, place) => h('li', { role: 'option', id: `offer-${place}`, 'aria-selected': 'false', onpointerdown: (event) => (event.preventDefault(), take(text)) }, text)));
    list.hidden = false;
    input.setAttribute('aria-expanded', 'true');
  });
  input.addEventListener('input', () => {
    waiting = true;
    open();
  });
  input.addEventListener('blur', close);
  input.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && at >= 0) {
      event.preventDefault();
      take(list.children[at].textContent);
    } else if (event.key === 'Escape' && !list.hidden) {
      event.preventDefault();
      event.stopPropagation();
      close();
    } else if (event.key === 'ArrowDown' && list.hidden) {
      waiting = true;
      open();
    }
    else if (event.key === 'ArrowDown') (event.preventDefault(), mark(at + 1));
    else if (event.key === 'ArrowUp' && !list.hidden) (event.preventDefault(), mark(at < 0 ? -1 : at - 1));
    else if (event.key === 'Enter') close();
  });
  return close;
}
