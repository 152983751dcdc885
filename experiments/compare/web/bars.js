// The score of each class, with one bar per method.

const MOST_BARS = 12; // methods that are drawn at a time

function startBars() {
  const section = document.getElementById('classes'), kinds = Object.keys(data.classes);
  if (!kinds.length) { section.append(make('p', { className: 'note' }, 'No run has per-class scores.')); return; }
  const place = make('div', { className: 'bars' }), note = make('p', { className: 'note' });
  let kind = kinds[0], order = 'given';
  const draw = () => {
    const shown = data.groups.map((_, index) => index).filter((index) => data.groups[index].runs.some(isVisible));
    const groups = shown.slice(0, MOST_BARS), classes = Object.entries(data.classes[kind]);
    const mean = (values) => {
      const own = groups.map((index) => values[index]).filter(Boolean);
      return own.reduce((sum, [value]) => sum + value, 0) / own.length;
    };
    if (order === 'score') classes.sort((a, b) => mean(a[1]) - mean(b[1]));
    const top = Math.max(...classes.flatMap(([, values]) => groups.map((index) => (values[index] ? values[index][0] : 0))));
    const most = top <= 1 ? 1 : top;
    note.textContent = `val/${kind}/CLASS at the best ${data.metric} of each run; a thin line is the 95 % interval over seeds.`
      + (shown.length > groups.length ? ` The first ${MOST_BARS} of ${shown.length} methods are shown; switch some of them off to see others.` : '');
    fill(place, ...classes.map(([name, values]) => make('figure', {}, make('figcaption', {}, name), ...groups.map((index) => makeBar(index, values[index], most)))));
  };
  section.append(make('div', { className: 'controls' },
    makeSelect('Score', kinds.map((own) => [own, own]), kind, (own) => { kind = own; draw(); }),
    makeSelect('Order', [['given', 'as in the data'], ['score', 'worst first']], order, (own) => { order = own; draw(); })), note, place);
  listeners.push(draw);
  draw();
}

function makeBar(index, value, most) {
  const text = value ? (Math.abs(value[0]) <= 1 ? value[0].toFixed(3) : write(value[0], 3)) : '-', track = make('span', { className: 'track', 'aria-hidden': 'true' });
  if (value) {
    const bar = make('span', { className: 'bar' }), part = (own) => `${(100 * Math.max(0, Math.min(1, own / most))).toFixed(2)}%`;
    bar.style.width = part(value[0]);
    bar.style.background = colourOf(index);
    track.append(bar);
    if (value[1] !== null) {
      const whisker = make('span', { className: 'whisker' });
      whisker.style.left = part(value[1]);
      whisker.style.width = `calc(${part(value[2])} - ${part(value[1])})`;
      track.append(whisker);
    }
  }
  return make('div', { className: 'row' }, make('span', { className: 'name', title: data.groups[index].name }, data.groups[index].name), track,
    make('span', { className: 'value' }, text));
}
