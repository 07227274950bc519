// What is asked: one object, kept in the URL's hash so that a search can be shared, and turned into a request.

import { apiKey, inCollection } from './api.js';

export const CLAUSES = ['must', 'should', 'must_not'];
const BLOCKS = ['keys', 'advertisers', 'campaigns'];
/** Query vectors longer than this are left out of the hash. */
const LONGEST = 16384;

export const DEFAULTS = Object.freeze({
  kind: 'text',
  query: '',
  rank: 'relevance',
  alpha: 1,
  filter: { must: [], should: [], must_not: [] },
  eligibility: 'serving',
  min: '',
  per: '',
  most: 3,
  block: { keys: [], advertisers: [], campaigns: [] },
  target: '',
  nprobe: '',
  candidates: '',
  exact: false,
  limit: 20,
  offset: 0,
  timeout: '',
  partial: false,
  split: '',
});

export const fresh = () => structuredClone(DEFAULTS);

/** "search" or another view, and the state, from a hash; what is not understood is passed over. */
export function fromHash(hash) {
  const [view, query] = hash.replace(/^#/, '').split('?', 2);
  const state = fresh();
  for (const [name, text] of new URLSearchParams(query)) {
    if (Object.hasOwn(DEFAULTS, name)) state[name] = read(DEFAULTS[name], text);
  }
  return { view: view || 'search', state };
}

function read(fallback, text) {
  if (typeof fallback === 'boolean') return text === 'true';
  if (typeof fallback === 'number') return Number.isFinite(Number(text)) ? Number(text) : fallback;
  if (typeof fallback === 'string') return text;
  const copy = structuredClone(fallback);
  try {
    const given = JSON.parse(text);
    for (const name of Object.keys(copy)) if (Array.isArray(given[name])) copy[name] = given[name];
  } catch {
    // A hash that was cut or edited by hand: go on without this part of it.
  }
  return copy;
}

/** The hash of a search: only what differs from the defaults. */
export function toHash(state) {
  const parts = new URLSearchParams();
  for (const [name, fallback] of Object.entries(DEFAULTS)) {
    const value = typeof fallback === 'object' ? JSON.stringify(state[name]) : String(state[name]);
    const usual = typeof fallback === 'object' ? JSON.stringify(fallback) : String(fallback);
    if (value !== usual && value.length <= LONGEST) parts.set(name, value);
  }
  const text = parts.toString();
  return text ? `#search?${text}` : '#search';
}

const number = (text) => (String(text).trim() === '' ? undefined : Number(text));

/** Numbers separated by commas, spaces or line ends, with or without brackets; throws what is wrong with them. */
export function parseVector(text) {
  const parts = text.replace(/[[\]]/g, ' ').split(/[\s,;]+/).filter(Boolean);
  const wrong = parts.find((part) => !Number.isFinite(Number(part)));
  if (wrong !== undefined) throw new Error(`“${wrong.slice(0, 40)}” in the vector is not a number`);
  if (!parts.length) throw new Error('The vector is empty');
  return parts.map(Number);
}

function subject(state) {
  const text = state.query.trim();
  if (state.kind === 'vector') return { vector: parseVector(text) };
  if (state.kind === 'text') return { text };
  return { key: parseKey(text) };
}

/** A key as a number; throws where it is none, or too large to be written exactly. */
export function parseKey(text) {
  const key = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(key)) {
    throw new Error(`“${text.slice(0, 40)}” is not a key: keys are whole numbers (up to 2^53 in this page)`);
  }
  return key;
}

/** The body of the request; throws an Error with what is wrong in the form. */
export function toBody(state) {
  const body = { ...subject(state), limit: state.limit };
  if (state.offset) body.offset = state.offset;
  const clauses = CLAUSES.filter((clause) => state.filter[clause].length);
  if (clauses.length) body.filter = Object.fromEntries(clauses.map((clause) => [clause, state.filter[clause]]));
  if (state.eligibility !== DEFAULTS.eligibility) body.eligibility = state.eligibility;
  if (number(state.min) !== undefined) body.min_relevance = number(state.min);
  if (state.rank === 'ecpm') Object.assign(body, { rank: 'ecpm', alpha: state.alpha });
  if (state.per) body.diversity = { key: state.per, max: state.most };
  const blocks = BLOCKS.filter((kind) => state.block[kind].length);
  if (blocks.length) body.block = Object.fromEntries(blocks.map((kind) => [kind, state.block[kind]]));
  const params = effort(state);
  if (Object.keys(params).length) body.params = params;
  if (number(state.timeout) !== undefined) body.timeout_ms = number(state.timeout);
  if (state.partial) body.allow_partial = true;
  if (state.split) body.split_key = state.split;
  return { ...body, with_fields: true, stats: true };
}

function effort(state) {
  if (state.exact) return { exact: true };
  const given = {
    nprobe: number(state.nprobe),
    candidates: number(state.candidates),
    recall_target: number(state.target),
  };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
}

/** The request as a command for a shell; a key is left to the environment. */
export function toCurl(body) {
  const quote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
  const url = new URL(inCollection('/search'), document.baseURI).href;
  const key = apiKey() ? ` \\\n  -H "authorization: Bearer $BIGRAIN_API_KEY"` : '';
  return `curl -s ${quote(url)}${key} \\\n  -H 'content-type: application/json' \\\n  -d ${quote(JSON.stringify(body))}`;
}
