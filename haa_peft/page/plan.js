// The floor plan: a click chooses a position, drawing a path; arrow keys move the position. Metres come from the picture's axes.
const SVG = 'http://www.w3.org/2000/svg';
const holder = () => element.querySelector('.plan-picture');
let drawn = null;

function axes() {
  const found = holder();
  return found ? JSON.parse(found.dataset.axes) : null;
}

function toMetres(event) {
  const svg = holder().querySelector('svg'), ends = axes();
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  const share = (value, from, to) => Math.min(1, Math.max(0, (value - from) / (to - from)));
  const x = ends.x[0] + share(point.x, ends.left, ends.right) * (ends.x[1] - ends.x[0]);
  const y = ends.y[0] + share(point.y, ends.bottom, ends.top) * (ends.y[1] - ends.y[0]);
  return [Math.round(x * 100) / 100, Math.round(y * 100) / 100];
}

function toPicture([x, y]) {
  const ends = axes();
  return [ends.left + (x - ends.x[0]) / (ends.x[1] - ends.x[0]) * (ends.right - ends.left),
          ends.bottom + (y - ends.y[0]) / (ends.y[1] - ends.y[0]) * (ends.top - ends.bottom)];
}

function show(points) {
  const svg = element.querySelector('.plan-picture svg');
  if (!svg) return;
  svg.querySelectorAll('.here').forEach(old => old.remove());
  if (!points || !points.length) return;
  const places = points.map(toPicture), group = document.createElementNS(SVG, 'g');
  group.setAttribute('class', 'here');
  const add = (kind, given) => {
    const made = document.createElementNS(SVG, kind);
    for (const key in given) made.setAttribute(key, given[key]);
    group.appendChild(made);
  };
  const line = places.map(place => place.join(',')).join(' ');
  if (places.length > 1) {
    add('polyline', {points: line, class: 'path-edge'});
    add('polyline', {points: line, class: 'path-line'});
  }
  const [x, y] = places[0];
  add('circle', {cx: x, cy: y, r: 9, class: 'ring-edge'});
  add('circle', {cx: x, cy: y, r: 9, class: 'ring'});
  add('circle', {cx: x, cy: y, r: 3.2, class: 'dot'});
  svg.appendChild(group);
}

const isPath = () => props.mode === 'path';
const away = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);

element.addEventListener('pointerdown', event => {
  if (event.button || !event.target.closest('.plan-picture svg') || !isPath()) return;
  drawn = [toMetres(event)];
  element.setPointerCapture(event.pointerId);
});
element.addEventListener('pointermove', event => {
  if (!drawn) return;
  const point = toMetres(event);
  if (away(point, drawn[drawn.length - 1]) >= 0.15 && drawn.length < 200) {
    drawn.push(point);
    show(drawn);
  }
});
element.addEventListener('pointerup', event => {
  if (!drawn) return;
  const points = drawn;
  drawn = null;
  if (points.length > 1) trigger('place', {points: points});
});
element.addEventListener('pointercancel', () => { drawn = null; });
element.addEventListener('click', event => {
  if (isPath() || !event.target.closest('.plan-picture svg')) return;
  const point = toMetres(event);
  show([point]);
  trigger('place', {points: [point]});
});

const MOVES = {ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1]};
let waiting = null;
element.addEventListener('keydown', event => {
  const move = MOVES[event.key], points = props.points;
  if (!move || isPath() || !points || !points.length || !event.target.closest('.plan')) return;
  event.preventDefault();
  const by = event.shiftKey ? 5 : 1;
  const point = [0, 1].map(i => Math.round((points[0][i] + move[i] * by) * 100) / 100);
  props.points = [point];
  show([point]);
  clearTimeout(waiting);
  waiting = setTimeout(() => trigger('place', {points: [point]}), 250);
});

const update = () => {
  const plan = element.querySelector('.plan');
  if (plan) plan.classList.toggle('draws', isPath());
  show(props.points);
};
watch(['value', 'points', 'mode'], update);
update();
