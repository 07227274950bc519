// Small line charts of the last two minutes, drawn as SVG.

import { h, known, svg } from './dom.js';

const [WIDTH, HEIGHT] = [600, 120];

/**
 * A chart of `lines` ([{name, kind, values}], null where nothing was measured) over the same seconds; the newest value is last.
 * `format`: shows a value; `floor`: whether the axis starts at 0 (else at the least value).
 */
export function chart(title, lines, { format, floor = true }) {
  const all = lines.flatMap(({ values }) => values.filter(known));
  const most = all.length ? Math.max(...all) : 1;
  const least = floor ? 0 : all.length ? Math.min(...all) : 0;
  const span = most - least || Math.abs(most) || 1;
  const x = (at, values) => (values.length > 1 ? (at / (values.length - 1)) * WIDTH : WIDTH);
  const y = (value) => HEIGHT - 4 - ((value - least) / span) * (HEIGHT - 12);
  const readout = h('span', { class: 'readout mono' });
  const cursor = svg('line', { class: 'cursor', y1: 0, y2: HEIGHT, visibility: 'hidden' });
  const drawing = svg(
    'svg',
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': spoken(title, lines, format) },
    [0.25, 0.5, 0.75].map((share) => svg('line', { class: 'grid', x1: 0, x2: WIDTH, y1: HEIGHT * share, y2: HEIGHT * share })),
    lines.map(({ kind, values }) => svg('path', { class: `line ${kind}`, d: path(values, x, y) })),
    cursor,
  );
  const newest = () => {
    cursor.setAttribute('visibility', 'hidden');
    readout.textContent = lines.map(({ name, values }) => `${name} ${format(values.findLast(known))}`).join('   ');
  };
  drawing.addEventListener('pointermove', (event) => {
    const box = drawing.getBoundingClientRect();
    const length = lines[0].values.length;
    const at = Math.min(length - 1, Math.max(0, Math.round(((event.clientX - box.left) / box.width) * (length - 1))));
    for (const end of ['x1', 'x2']) cursor.setAttribute(end, x(at, lines[0].values));
    cursor.setAttribute('visibility', 'visible');
    readout.textContent = `${length - 1 - at} s ago   ${lines.map(({ name, values }) => `${name} ${format(values[at])}`).join('   ')}`;
  });
  drawing.addEventListener('pointerleave', newest);
  newest();
  const bounds = h('div', { class: 'bounds quiet mono', 'aria-hidden': 'true' }, h('span', {}, format(most)), h('span', {}, format(least)));
  return h('figure', { class: 'chart' }, h('figcaption', {}, h('strong', {}, title), readout), h('div', { class: 'plot' }, drawing, bounds));
}

/** A path with gaps where nothing is known. */
function path(values, x, y) {
  let open = false;
  return values
    .map((value, at) => {
      const move = open ? 'L' : 'M';
      open = known(value);
      return open ? `${move}${x(at, values).toFixed(1)} ${y(value).toFixed(1)}` : '';
    })
    .join('');
}

function spoken(title, lines, format) {
  const line = ({ name, values }) => {
    const seen = values.filter(known);
    return seen.length ? `${name} now ${format(seen.at(-1))}, from ${format(Math.min(...seen))} to ${format(Math.max(...seen))}` : `${name} unknown`;
  };
  return `${title}, last ${lines[0].values.length} seconds: ${lines.map(line).join('; ')}`;
}
