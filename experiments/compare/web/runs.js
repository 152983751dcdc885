// The list of methods and their seeds, with a filter. It switches runs on and off in all charts.

function startRuns() {
  const legend = document.getElementById('legend'), filter = document.getElementById('filter');
  const items = data.groups.map((group, index) => new LegendItem(group, index));
  legend.append(...items.map((item) => item.element));
  const narrow = () => {
    const wanted = filter.value.toLowerCase();
    for (const item of items) item.element.hidden = !item.text.includes(wanted);
  };
  filter.addEventListener('input', narrow);
  const setAll = (on) => {
    for (const item of items) if (!item.element.hidden) item.set(on);
    redrawSoon();
  };
  document.getElementById('all').addEventListener('click', () => setAll(true));
  document.getElementById('none').addEventListener('click', () => setAll(false));
  const update = () => {
    for (const item of items) item.update();
    document.getElementById('switched').textContent = `${visible.size} of ${count(data.runs.length, 'run')} switched on`;
  };
  listeners.push(update);
  update();
  if (matchMedia('(max-width: 899px)').matches) document.getElementById('runs').open = false;
}

class LegendItem {
  constructor(group, index) {
    this.group = group;
    this.index = index;
    this.swatch = make('canvas', { className: 'swatch', width: 44, height: 20, 'aria-hidden': 'true' });
    const several = group.runs.length > 1;
    this.boxes = group.runs.map((number) => {
      const run = data.runs[number];
      const box = make('input', { type: 'checkbox', checked: true, on: { change: () => this.switch(number, box.checked) } });
      return { number, box, label: make('label', {}, box, ' ', run.name, stateOf(run)) };
    });
    this.box = several ? make('input', { type: 'checkbox', checked: true, on: { change: () => this.setAll() } }) : this.boxes[0].box;
    const name = several ? [make('span', {}, group.name)] : [make('span', {}, group.name, stateOf(data.runs[group.runs[0]]))];
    this.element = make('li', {}, make('label', { className: 'method' }, this.box, this.swatch, ...name));
    if (several) {
      const seeds = make('ul', {}, ...this.boxes.map(({ label }) => make('li', {}, label)));
      this.element.append(make('details', {}, make('summary', {}, `${group.runs.length} seeds`), seeds));
    }
    this.text = [group.name, ...group.runs.map((number) => data.runs[number].name)].join(' ').toLowerCase();
  }

  switch(number, on) {
    if (on) visible.add(number); else visible.delete(number);
    redrawSoon();
  }

  set(on) {
    for (const { number, box } of this.boxes) {
      box.checked = on;
      if (on) visible.add(number); else visible.delete(number);
    }
  }

  setAll() {
    this.set(this.box.checked);
    redrawSoon();
  }

  update() {
    const on = this.boxes.filter(({ number }) => isVisible(number)).length;
    this.box.checked = on > 0;
    this.box.indeterminate = on > 0 && on < this.boxes.length;
    const context = this.swatch.getContext('2d');
    context.clearRect(0, 0, 44, 20);
    context.strokeStyle = colourOf(this.index);
    context.lineWidth = 5;
    context.setLineDash(dashOf(this.index).map((length) => 2 * length));
    line(context, 0, 10, 44, 10);
  }
}

function stateOf(run) {
  const words = [run.state === 'done' ? '' : run.state, run.problems.length ? 'problems' : ''].filter(Boolean).join(', ');
  return words ? make('small', {}, ` (${words})`) : '';
}
