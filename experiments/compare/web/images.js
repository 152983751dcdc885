// The same validation images side by side, with the ground truth and the prediction of each method's best run.

const MARKS = 'A check marks a hit, a dashed frame with a cross a false alarm, corners with a ring a missed object. '
  + 'Dotted or striped objects are not counted.';

function startImages() {
  const section = document.getElementById('examples'), { rows, sheets, classes, left_out } = data.examples;
  const withSheets = data.groups.filter((group) => sheets[group.shown]);
  if (!rows.length && !withSheets.length) { section.remove(); return; }
  const place = makeScroll('The same images, by run'), older = make('div', { className: 'sheets' });
  const draw = () => {
    const groups = data.groups.filter((group) => isVisible(group.shown) && rows.some((row) => group.shown in row.predictions));
    const columns = [...(rows.some((row) => row.image) ? [['image', 'image']] : []), ['truth', 'ground truth']];
    const head = make('tr', {}, ...columns.map(([, title]) => make('th', { scope: 'col' }, title)),
      ...groups.map((group) => make('th', { scope: 'col' }, group.name)));
    const body = rows.map((row) => make('tr', {},
      ...columns.map(([key, title]) => make('td', {}, makePicture(row[key], `${title} of ${row.name}`))),
      ...groups.map((group) => make('td', {}, makePicture(row.predictions[group.shown], `${group.name} on ${row.name}`)))));
    fill(place, rows.length ? make('table', { className: 'pictures' }, make('caption', {}, 'Newest evaluation of the best run of each method'),
      make('thead', {}, head), make('tbody', {}, ...body)) : '');
    fill(older, ...withSheets.filter((group) => isVisible(group.shown)).map((group) => make('figure', {},
      make('figcaption', {}, group.name), makePicture(sheets[group.shown], `Examples of ${group.name}`))));
  };
  const legend = Object.entries(classes).map(([name, colour]) => {
    const patch = make('span', { className: 'patch', 'aria-hidden': 'true' });
    patch.style.background = colour;
    return make('li', {}, patch, name);
  });
  section.append(make('ul', { className: 'legend' }, ...legend));
  if (rows.some((row) => !row.image)) section.append(make('p', { className: 'note' }, MARKS));  // objects, not label maps
  section.append(place);
  if (withSheets.length) section.append(make('h3', {}, 'Runs without separate examples'), older);
  if (left_out) section.append(make('p', { className: 'note' }, `Pictures of ${count(left_out, 'more method')} are left out, to keep the page small.`));
  listeners.push(draw);
  draw();
}

function makePicture(address, words) {
  return address ? make('img', { src: address, alt: words, title: words, decoding: 'async' }) : '-';
}
