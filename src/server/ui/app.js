// Starts the page: views, key, theme, keyboard.

import * as api from './api.js';
import { $, count } from './dom.js';
import { controlView, focusControl } from './entities.js';
import { close as closeDrawer } from './explain.js';
import { watch } from './live.js';
import { clear, problem } from './notices.js';
import * as search from './search.js';
import { fromHash } from './state.js';
import { versionsView } from './versions.js';

const VIEWS = ['search', 'live', 'versions', 'control'];
const THEME = 'bigrain-theme';

const showChanges = controlView($('view-control'));
const loadVersions = versionsView($('view-versions'), () => describe());
const opened = { versions: loadVersions, control: () => (showChanges(), focusControl()) };

function open(name) {
  const view = VIEWS.includes(name) ? name : 'search';
  for (const other of VIEWS) $(`view-${other}`).hidden = other !== view;
  for (const link of document.querySelectorAll('nav [data-view]')) {
    if (link.dataset.view === view) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  document.title = view === 'search' ? 'bigrain' : `${view} – bigrain`;
  opened[view]?.();
  return view;
}

/** Whether the search in the hash has been asked: a bare #search then means the view, not an empty search. */
let asked = false;

/** Shows what the hash names; a search in it is asked. */
function route() {
  closeDrawer();
  const { view, state } = fromHash(location.hash);
  if (open(view) !== 'search') return;
  if (asked && !location.hash.includes('?')) history.replaceState(null, '', search.hash());
  else search.restore(state);
  asked = true;
}

/** Asks what the collection is; problems are shown, and the page goes on with what it has. */
async function describe() {
  try {
    const info = await api.get(api.inCollection(''));
    $('collection').textContent = `${info.name} · ${count(info.rows)} ads · ${info.index_version.slice(0, 8)}`;
    search.describe(info);
  } catch (error) {
    $('collection').textContent = 'not connected';
    problem(error, askForKey);
  }
}

/** The first collection that the server names; "default" where it does not tell. */
async function findCollection() {
  try {
    const { collections } = await api.get('v1/collections');
    if (collections?.length) api.useCollection(collections[0]);
  } catch {
    // A server that lists none serves "default", or says with the next request what is wrong.
  }
}

async function connect() {
  await findCollection();
  await describe();
  asked = false;
  route();
}

function askForKey() {
  $('key-menu').open = true;
  $('api-key').focus();
}

function setUpKey() {
  const use = (key) => {
    api.setApiKey(key);
    $('api-key').value = '';
    $('key-menu').open = false;
    clear();
    showKey();
    connect();
  };
  $('key-form').addEventListener('submit', (event) => {
    event.preventDefault();
    use($('api-key').value.trim());
  });
  $('key-forget').addEventListener('click', () => use(''));
  document.addEventListener('pointerdown', (event) => {
    if (!$('key-menu').contains(event.target)) $('key-menu').open = false;
  });
  showKey();
}

function showKey() {
  $('key-menu').classList.toggle('set', api.apiKey() !== '');
  $('key-forget').hidden = !api.apiKey();
}

/** The system's theme until a person chooses one. */
function setUpTheme() {
  const root = document.documentElement;
  const dark = () => (root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches);
  const chosen = localStorage.getItem(THEME);
  if (chosen) root.dataset.theme = chosen;
  $('theme').addEventListener('click', () => {
    root.dataset.theme = dark() ? 'light' : 'dark';
    localStorage.setItem(THEME, root.dataset.theme);
  });
}

function setUpKeyboard() {
  document.addEventListener('keydown', (event) => {
    const typing = event.target.closest('input, select, textarea');
    if (event.key === '/' && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      if ($('view-search').hidden) location.hash = search.hash();
      $('view-search').hidden = false;
      $('ask').focus();
      $('ask').select();
    } else if (event.key === 'Escape' && !closeDrawer()) $('key-menu').open = false;
  });
}

/** The panel is open where there is room for it. */
function setUpRail() {
  const wide = matchMedia('(min-width: 56rem)');
  const fit = () => ($('rail').open = wide.matches);
  wide.addEventListener('change', fit);
  fit();
}

let version = null;

/** Another version serves (perhaps switched by somebody else): what the page says of the collection is stale. */
function noticeVersion(status) {
  if (version !== null && status.index_version !== version) {
    describe();
    if (!$('view-versions').hidden) loadVersions();
  }
  version = status.index_version;
}

setUpTheme();
setUpKey();
setUpKeyboard();
setUpRail();
search.start(askForKey);
window.addEventListener('hashchange', () => {
  clear();
  route();
});
connect();
watch(noticeVersion);
