// Requests to the server: the key, problems as errors, one place that knows the paths.

const KEY = 'bigrain-api-key';

export const apiKey = () => sessionStorage.getItem(KEY) ?? '';

export function setApiKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/** An answer of 400 or more, or none at all: `status` (0 without an answer), `code`, `detail`, `pointer`, `remedy`. */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail ?? body.title ?? `the server answered ${status}`);
    this.status = status;
    Object.assign(this, { code: body.code, pointer: body.pointer, remedy: body.remedy, request: body.request_id });
  }
}

let collection = 'default';

/** The collection asked from now on. */
export function useCollection(name) {
  collection = name;
}

/** Path of the collection; relative, so that the page also works below a prefix of a proxy. */
export const inCollection = (rest) => `v1/collections/${encodeURIComponent(collection)}${rest}`;

/**
 * Sends one request and returns the parsed answer.
 * `body`: sent as JSON; `lines`: sent as NDJSON; `signal`: to give up.
 */
export async function ask(method, path, { body, lines, signal } = {}) {
  const headers = {};
  if (apiKey()) headers.authorization = `Bearer ${apiKey()}`;
  if (body !== undefined) headers['content-type'] = 'application/json';
  if (lines) headers['content-type'] = 'application/x-ndjson';
  const text = lines ? lines.map((line) => `${JSON.stringify(line)}\n`).join('') : JSON.stringify(body);
  let response;
  try {
    response = await fetch(path, { method, headers, body: text, signal, cache: 'no-store' });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Problem(0, { detail: 'The server did not answer.', remedy: 'check that it runs and can be reached' });
  }
  const answer = await response.text();
  const parsed = parse(answer);
  if (!response.ok) throw new Problem(response.status, parsed ?? {});
  if (parsed === undefined) throw new Problem(response.status, { detail: `${path} did not answer with JSON` });
  return parsed;
}

function parse(text) {
  try {
    return text ? JSON.parse(text) : {};
  } catch {
    return undefined;
  }
}

export const get = (path, options) => ask('GET', path, options);
export const post = (path, body, options) => ask('POST', path, { ...options, body });
