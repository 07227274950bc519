// Elements and figures. Text becomes text nodes only: nothing that comes from data is ever parsed as HTML.

export const $ = (id) => document.getElementById(id);

/** An element. `props`: attributes, `on…` listeners, `class`; null and false are left out. Children: nodes or text. */
export function h(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

const SVG = 'http://www.w3.org/2000/svg';

/** The same for SVG. */
export function svg(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Puts `children` in place of what `element` holds. */
export function show(element, ...children) {
  element.replaceChildren(...children.flat(3).filter(Boolean));
}

/** An element whose custom property `--share` (0 to 1) its style turns into a length; the policy forbids style attributes. */
export function withShare(element, share) {
  element.style.setProperty('--share', Math.min(1, Math.max(0, Number(share) || 0)));
  return element;
}

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

/** 12,345; a dash for what is unknown. */
export const count = (value) => (known(value) ? whole.format(value) : '–');

/** Figures enough to tell neighbours apart, no more. */
export function figure(value, digits = 3) {
  if (!known(value)) return '–';
  const size = Math.abs(value);
  if (size >= 100) return whole.format(value);
  return Number(value).toFixed(size >= 10 ? Math.min(digits, 1) : size >= 1 ? Math.min(digits, 2) : digits);
}

/** Millionths of the currency as units of it. */
export const money = (micros) => (known(micros) ? figure(micros / 1e6, 3) : '–');

/** Seconds, however small or large, in the unit a person would use. */
export function duration(seconds) {
  if (!known(seconds)) return '–';
  if (seconds < 1e-3) return `${figure(seconds * 1e6, 0)} µs`;
  if (seconds < 1) return `${figure(seconds * 1e3, 2)} ms`;
  if (seconds < 120) return `${Number.isInteger(seconds) ? seconds : figure(seconds, 1)} s`;
  if (seconds < 7200) return `${count(seconds / 60)} min`;
  return seconds < 172800 ? `${count(seconds / 3600)} h` : `${count(seconds / 86400)} days`;
}

/** Bytes in the unit a person would use. */
export function bytes(value) {
  if (!known(value)) return '–';
  const unit = Math.min(4, Math.floor(Math.log2(Math.max(1, value)) / 10));
  return `${figure(value / 1024 ** unit, 1)} ${['B', 'KiB', 'MiB', 'GiB', 'TiB'][unit]}`;
}

export const known = (value) => value !== null && value !== undefined && Number.isFinite(Number(value));

/** "ad_group" as a person would write it. */
export const words = (name) => String(name).replaceAll('_', ' ');

/** `action`, once nothing has asked for it for `ms`. */
export function later(ms, action) {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...given), ms);
  };
}
