// The tables of the summary with the verdicts, of config fields, and of each run's provenance.

// Makes a table that its headers sort. `columns` are {title, help}, a cell of `rows` is [text, sort key].
function makeTable(columns, rows, caption, mark = () => '') {
  const body = make('tbody');
  const order = { column: -1, rising: true };
  const headers = columns.map(({ title, help }, column) => make('th', { scope: 'col', title: help || '' },
    title ? make('button', { type: 'button', on: { click: () => sort(column) } }, title) : ''));
  const show = (shown) => fill(body, ...shown.map((cells) => make('tr', {}, ...cells.map(([text, value], column) => make(
    column ? 'td' : 'th', { className: typeof value === 'number' ? 'number' : '', ...(column ? {} : { scope: 'row' }) },
    make('div', { className: 'cell' }, text, mark(cells, column)),
  )))));
  const sort = (column) => {
    const numeric = rows.some((cells) => typeof cells[column][1] === 'number');
    order.rising = order.column === column ? !order.rising : !numeric;
    order.column = column;
    headers.forEach((header, index) => header.removeAttribute('aria-sort') || index === column
      && header.setAttribute('aria-sort', order.rising ? 'ascending' : 'descending'));
    show([...rows].sort((left, right) => compareCells(left[column][1], right[column][1], order.rising)));
  };
  show(rows);
  return make('table', {}, make('caption', {}, make('div', {}, caption)), make('thead', {}, make('tr', {}, ...headers)), body);
}

// Compares two cells. Missing values come last in both orders.
function compareCells(left, right, rising) {
  const isMissing = (value) => value === null || value === undefined || Number.isNaN(value);
  if (isMissing(left) || isMissing(right)) return isMissing(left) - isMissing(right);
  const sign = typeof left === 'number' && typeof right === 'number' ? left - right
    : String(left).localeCompare(String(right), 'en', { numeric: true });
  return rising ? sign : -sign;
}

// Makes a box in which a wide table scrolls, also by keyboard.
function makeScroll(title, ...children) {
  return make('div', { className: 'scroll', tabIndex: 0, role: 'region', 'aria-label': title }, ...children);
}

function startSummary() {
  const section = document.getElementById('summary'), { columns, rows, best } = data.summary;
  const values = rows.map((cells) => cells[best][1]).filter((value) => value !== null);
  const top = data.smaller ? Math.min(...values) : Math.max(...values);
  const mark = (cells, column) => (column === best && rows.length > 1 && cells[best][1] === top ? ' ★' : '');
  const table = makeTable(columns.map(([title, help]) => ({ title, help })), rows,
    `Methods in the given order; click a header to sort them. ★ marks the best ${data.metric}`, mark);
  const meanings = columns.flatMap(([title, help]) => [make('dt', {}, title), make('dd', {}, help)]);
  section.append(makeScroll('Summary', table),
    make('details', {}, make('summary', {}, 'Meaning of the columns'), make('dl', {}, ...meanings)));
  const words = data.verdicts.map((own) => make('li', {}, own.text, make('small', {},
    ` ${own.images} images, ${own.draws} draws of a paired bootstrap; `
    + (own.seeds ? 'includes the spread over seeds' : 'for these runs only, without the spread over seeds'))));
  if (words.length) section.append(make('h3', {}, 'Is the difference significant?'), make('ul', { className: 'verdicts' }, ...words));
  const broken = data.runs.filter((run) => run.problems.length);
  if (broken.length) {
    section.append(make('h3', {}, 'Problems'), make('ul', { className: 'problems' },
      ...broken.map((run) => make('li', {}, make('strong', {}, run.name), ': ' + run.problems.join('; ')))));
  }
}

function startConfig() {
  const section = document.getElementById('config'), { all, varied } = data.fields;
  const place = makeScroll('Fields of the configs');
  const status = make('p', { className: 'note', role: 'status' });
  let whole = data.runs.length === 1, wanted = '';
  const draw = () => {
    const groups = data.groups.map((_, index) => index).filter((index) => data.groups[index].runs.some(isVisible));
    const fields = (whole ? all : varied.map((index) => all[index])).filter((field) => field.name.toLowerCase().includes(wanted));
    const columns = ['field', ...groups.map((index) => data.groups[index].name)].map((title) => ({ title }));
    const rows = fields.map((field) => [[field.name, field.name], ...groups.map((index) => {
      const text = field.groups[index] < 0 ? '-' : field.texts[field.groups[index]];
      return [text, text];
    })]);
    status.textContent = whole ? `${fields.length} of ${all.length} fields` : fields.length
      ? `${count(fields.length, 'field')} with different values (without seeds and settings that do not change results)`
      : 'Only seeds and settings that do not change results differ.';
    fill(place, rows.length ? makeTable(columns, rows, 'Config fields of the methods') : '');
  };
  section.append(make('div', { className: 'controls' },
    makeCheck('all fields', whole, (on) => { whole = on; draw(); }),
    make('label', {}, 'Filter ', make('input', { type: 'search', on: { input: (event) => { wanted = event.target.value.toLowerCase(); draw(); } } }))),
  status, place);
  listeners.push(draw);
  draw();
}

function startMade() {
  const section = document.getElementById('made');
  const titles = [...new Set(data.runs.flatMap((run) => Object.keys(run.made)))];
  const place = makeScroll('Provenance of the runs');
  const draw = () => {
    const runs = data.runs.filter((_, number) => isVisible(number));
    const rows = runs.map((run) => [[run.name, run.name], [`${run.step} of ${run.steps}`, run.step], ...titles.map((title) => {
      const text = run.made[title] || '-';
      return [text, text];
    })]);
    fill(place, makeTable(['run', 'step', ...titles].map((title) => ({ title })), rows, 'Sessions of each run, from its evidence.json'));
  };
  section.append(place);
  listeners.push(draw);
  draw();
}
