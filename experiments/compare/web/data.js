// Shared by all parts: the data of the page, elements, numbers as text, and the theme.
// Every text from a run becomes text of an element or a canvas, never markup.

const data = JSON.parse(document.getElementById('data').textContent);

function decode(text, Numbers) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return new Numbers(bytes.buffer);
}

// Makes an element. `attributes` are its properties, or attributes if they have a dash; `on` has its listeners.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'on') for (const [event, act] of Object.entries(value)) element.addEventListener(event, act);
    else if (name.includes('-') || name === 'role' || name === 'for') element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

// Makes a labelled list of choices. `options` are [value, text].
function makeSelect(title, options, value, change) {
  const select = make('select', { on: { change: () => change(select.value) } });
  for (const [own, text] of options) select.append(make('option', { value: own }, text));
  select.value = value;
  return make('label', {}, title + ' ', select);
}

function makeCheck(title, checked, change) {
  const box = make('input', { type: 'checkbox', checked, on: { change: () => change(box.checked) } });
  return make('label', {}, box, ' ' + title);
}

function fill(element, ...children) {
  element.replaceChildren(...children);
  return element;
}

function write(value, digits = 5) {
  if (value === null || value === undefined || !Number.isFinite(value)) return '-';
  if (Number.isInteger(value) && Math.abs(value) < 1e9) return String(value);
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(2).replace('e+', 'e');
  return String(Number(value.toPrecision(digits)));
}

function count(number, noun) {
  return `${number} ${noun}${number === 1 ? '' : 's'}`;
}

function isVisible(number) {
  return visible.has(number);
}

// The numbers of the runs that are switched on, and the functions to call after a change.
const visible = new Set(data.runs.map((_, number) => number));
const listeners = [];
let waiting = false;

function redrawSoon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    for (const draw of listeners) draw();
  });
}

// The lines of methods: six colours, then the same colours dashed and dotted.
const DASHES = [[], [7, 4], [2, 3], [10, 3, 2, 3]];

function isDark() {
  return document.documentElement.dataset.theme === 'dark';
}

function colourOf(group) {
  const colours = data.colours[isDark() ? 'dark' : 'light'];
  return colours[group % colours.length];
}

function dashOf(group) {
  return DASHES[Math.floor(group / data.colours.light.length) % DASHES.length];
}

function ink(name) {
  return getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim();
}

const groupOf = [];
data.groups.forEach((group, index) => group.runs.forEach((number) => { groupOf[number] = index; }));

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  const button = document.getElementById('theme');
  button.setAttribute('aria-pressed', String(theme === 'dark'));
}

function startTheme() {
  const asked = matchMedia('(prefers-color-scheme: dark)');
  setTheme(asked.matches ? 'dark' : 'light');
  asked.addEventListener('change', () => { setTheme(asked.matches ? 'dark' : 'light'); redrawSoon(); });
  document.getElementById('theme').addEventListener('click', () => {
    setTheme(isDark() ? 'light' : 'dark');
    redrawSoon();
  });
}
